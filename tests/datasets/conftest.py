"""A tiny data set in PASCAL VOC's layout."""

from pathlib import Path

import pytest
from trees import VocTree


@pytest.fixture
def voc_tree(tmp_path: Path) -> VocTree:
    """Train: t1 (cat, dog), t2 (person, sofa), t3 (sofa). Val: v1 (dog)."""
    tree = VocTree(tmp_path / "VOC2012")
    tree.add("t1", ["dog", "cat", "dog"], [8, 12])
    tree.add("t2", ["person", "sofa"], [15, 18])
    tree.add("t3", ["sofa"], [18])
    tree.add("v1", ["dog"], [12])
    tree.write_list("train", ["t1", "t2", "t3"])
    tree.write_list("val", ["v1"])
    return tree
