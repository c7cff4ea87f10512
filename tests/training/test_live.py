"""The files of a curve, which grow while a stage trains, and scores on the way."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import bytes_below
from support import Toy, from_step, read_live
from tasks import CPU, RECIPE, Broken, Found, Moody, run_moody, same
from torch import Tensor, nn

from dgkd_core.runtime.state import State
from dgkd_core.training.live import live_curve
from dgkd_core.training.loop import Batch, Losses, Validation, train

ROWS = (
    {"step": 100, "lr": 1.2345678e-4, "cls": 2 / 3},
    {"step": 150, "miou": 41.0},
    {"step": 1_234_567, "lr": 0.1, "cls": 1e-9, "check/found": 0.5},
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _told(rows: Sequence[Mapping[str, float]] = ROWS) -> dict[str, str]:
    with live_curve("toy") as log:
        for row in rows:
            log(row)
    return bytes_below(Path("metrics"))


def test_a_file_for_every_value_with_six_digits_as_soon_as_it_is_told(here: Path) -> None:
    expected = {
        "loss/cls": {100: 0.666667, 1_234_567: 1e-9},
        "check/found": {1_234_567: 0.5},
        "lr": {100: 0.000123457, 1_234_567: 0.1},
        "val/miou": {150: 41.0},
    }
    with live_curve("toy") as log:
        for row in ROWS:
            log(row)
            so_far = {
                name: {s: v for s, v in values.items() if s <= row["step"]}
                for name, values in expected.items()
            }
            assert read_live(here, "toy") == {name: v for name, v in so_far.items() if v}
    text = Path("metrics/live/toy/plots/metrics/loss/cls.tsv").read_text()
    assert text == "step\tcls\n100\t0.666667\n1234567\t1e-09\n"
    # begun anew it keeps nothing of before
    before = bytes_below(Path("metrics"))
    _told(({"step": 1, "lr": 0.1, "other": 1.0},))
    assert _told() == before
    _told(())
    (left,) = (file for file in Path("metrics").rglob("*") if file.is_file())
    assert (left.name, left.read_text()) == ("metrics.json", "{}\n")


def test_nothing_but_its_files_is_made_and_the_network_left_alone(
    here: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in a git repository that DVC does not know, nor with the token of DVC Studio."""
    git = ["git", "-c", "user.name=tester", "-c", "user.email=tester@example.invalid"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://example.invalid/x.git"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], check=True)
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "token")
    monkeypatch.setenv("DVC_STUDIO_URL", "https://example.invalid")
    monkeypatch.setenv("DVC_STUDIO_REPO_URL", "https://example.invalid/x.git")
    before, threads = bytes_below(here / ".git"), threading.active_count()
    _told()
    assert {path.name for path in here.iterdir()} == {".git", "metrics"}
    assert bytes_below(here / ".git") == before
    assert threading.active_count() == threads


# --- scores on the way ---------------------------------------------------------------------------


def _scoring(times: int) -> Validation:
    """Draws from the generators, as no scoring should, and uses the network."""

    def score(network: nn.Module, step: int) -> dict[str, float]:
        assert not any(layer.training for layer in network.modules())
        np.random.random(step)  # noqa: NPY002
        with torch.inference_mode():
            return {"miou": float(network(torch.rand(5, 3)).mean())}

    return Validation(times, score)


def test_scores_on_the_way_change_nothing_of_what_is_trained() -> None:
    plain, weights = run_moody()
    for times, scores in ((3, 3), (50, 11)):
        curve, scored_weights = run_moody(validation=_scoring(times))
        assert same(scored_weights, weights)
        assert [row for row in curve if "lr" in row] == plain
        assert len(curve) == len(plain) + scores


@pytest.mark.parametrize(
    ("times", "iterations", "steps"),
    [(0, 640, set()), (3, 640, {160, 320, 480}), (1, 7, {4}), (5, 3, {1, 2}), (4, 1, set())],
)
def test_they_are_spread_evenly_and_none_is_at_the_end(
    times: int, iterations: int, steps: set[int]
) -> None:
    assert Validation(times, lambda network, step: {}).steps(iterations) == steps


def _weights(ema: float) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """The network after each of three steps, the last as it is kept, and as it is scored."""
    torch.manual_seed(4)
    model, seen, scored = Moody(), list[dict[str, Tensor]](), list[dict[str, Tensor]]()
    data = torch.arange(45.0).sin().view(3, 5, 3)

    def losses(batch: Batch, i: int) -> Losses:
        seen.append(deepcopy(model.state_dict()))
        return {"a": model(batch["x"]).square().mean()}

    def score(network: nn.Module, step: int) -> dict[str, float]:
        scored.append(deepcopy(network.state_dict()))
        return {}

    recipe = replace(RECIPE, iterations=3, ema=ema)
    batches = from_step([{"x": x} for x in data])
    curve = train(
        "toy", Toy(losses, [model]), batches, recipe, CPU, validation=Validation(2, score)
    )
    assert all("lr" in row for row in curve), "without a score there is no row"
    return [*seen[1:], model.state_dict()], scored


@pytest.mark.parametrize(("ema", "decays"), [(0.75, (2 / 11, 3 / 12)), (0.2, (2 / 11, 0.2))])
def test_a_moving_average_is_scored_and_kept_in_the_networks_place(
    ema: float, decays: tuple[float, float]
) -> None:
    """Computed by hand: weights and statistics of norms are averaged, counts are the last."""
    (first, second, third), _ = _weights(0.0)
    (*trained, kept), scored = _weights(ema)
    assert same(trained[0], first)
    assert same(trained[1], second)
    assert same(scored[0], first)
    for name, last in third.items():
        if not last.is_floating_point():
            assert (scored[1][name], kept[name]) == (2, 3)
            continue
        two = decays[0] * first[name] + (1 - decays[0]) * second[name]
        torch.testing.assert_close(scored[1][name], two)
        torch.testing.assert_close(kept[name], decays[1] * two + (1 - decays[1]) * last)


@pytest.mark.parametrize(("keep", "best"), [(None, 3), ("miou", 3), ("miou", 12)])
@pytest.mark.parametrize("stop", [6, 9])
def test_a_run_that_broke_while_it_was_scored_goes_on_with_the_score_and_keeps_the_best(
    stop: int, keep: str | None, best: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is trained again: the state was saved before. Its files are those of one run."""
    monkeypatch.setenv("DGKD_SAVE_EVERY", "100000")
    seen: dict[int, dict[str, Tensor]] = {}

    def run(stop: int = -1, **options: Any) -> Found:
        def score(network: nn.Module, step: int) -> dict[str, float]:
            if step == stop:
                raise Broken
            seen[step] = deepcopy(network.state_dict())
            return {"miou": 50.0 if step == best else step}

        with live_curve("toy") as log:
            return run_moody(validation=Validation(3, score, keep), log=log, **options)

    curve, weights = run()
    assert sorted(seen) == ([3, 6, 9] if keep is None else [3, 6, 9, 12])
    assert keep is None or same(weights, seen[best])
    expected, state, trained = bytes_below(Path("metrics")), State("toy"), list[int]()
    with pytest.raises(Broken):
        run(stop, state=state)
    assert state.close(succeeded=False)
    again, same_weights = run(before=trained.append, state=State("toy"))
    assert trained == list(range(stop, 12))
    assert again == curve
    assert same(same_weights, weights)
    assert bytes_below(Path("metrics")) == expected
