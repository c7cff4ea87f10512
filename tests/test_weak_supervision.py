"""No mask of a training picture reaches training: without them weights and labels stay the same.

That `prepare` takes nothing else from them: tests/datasets/test_ingest.py.
"""

from __future__ import annotations

from pathlib import Path

from forked import forked, made
from support import CHAIN, copy_built


def test_without_training_masks_every_stage_but_evaluate_makes_the_same_bytes(
    chain: Path, tmp_path: Path
) -> None:
    folder = copy_built(chain, tmp_path / "copy")
    (folder / "artifacts/prepare/masks_train.zip").unlink()
    for stage in CHAIN[1 : CHAIN.index("evaluate")]:
        expected = made(folder, stage)
        forked(folder, stage).well()
        assert made(folder, stage) == expected, stage
    ended = forked(folder, "evaluate")
    assert ended.status == 1
    assert "masks_train.zip" in ended.output
