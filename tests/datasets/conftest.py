"""Tiny data sets, a new one for each test."""

from pathlib import Path

import pytest
from trees import FolderSet, LisSet, VocTree


@pytest.fixture
def voc_tree(tmp_path: Path) -> VocTree:
    return VocTree(tmp_path / "VOC2012")


@pytest.fixture
def mine(tmp_path: Path) -> FolderSet:
    return FolderSet(tmp_path / "photos of mine")


@pytest.fixture
def lis(tmp_path: Path) -> LisSet:
    return LisSet(tmp_path / "LIS")
