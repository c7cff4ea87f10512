"""The files of a curve, which grow while a stage trains, and scores on the way."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dvclive.plots import Metric
from forked import bytes_below
from ranks import as_ranks
from support import Toy, from_step, one_line, read_live
from torch import Tensor, nn

from dgkd_core.runtime import distributed
from dgkd_core.runtime.state import State
from dgkd_core.training.live import live_curve
from dgkd_core.training.loop import Batch, Losses, Recipe, Validation, train

CPU = torch.device("cpu")
RECIPE = Recipe(12, "sgd", 0.05, 0.001, 0.9, 2, 10, 0.01)
ROWS = (
    {"step": 100, "lr": 1.2345678e-4, "cls": 2 / 3},
    {"step": 150, "miou": 41.0},
    {"step": 1_234_567, "lr": 0.1, "cls": 1e-9, "kd_map": 0.5},
)
Log = Callable[[Mapping[str, float]], None]


class Broken(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("reached for the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def _told(rows: tuple[dict[str, float], ...] = ROWS) -> dict[str, str]:
    with live_curve("toy") as log:
        for row in rows:
            log(row)
    return bytes_below(Path("metrics"))


def test_a_file_for_every_value_with_six_digits(here: Path) -> None:
    _told()
    assert read_live(here, "toy") == {
        "loss/cls": {100: 0.666667, 1_234_567: 1e-9},
        "loss/kd_map": {1_234_567: 0.5},
        "lr": {100: 0.000123457, 1_234_567: 0.1},
        "val/miou": {150: 41.0},
    }
    text = Path("metrics/live/toy/plots/metrics/loss/cls.tsv").read_text()
    assert text == "step\tcls\n100\t0.666667\n1234567\t1e-09\n"


def test_a_row_is_there_as_soon_as_it_is_told(here: Path) -> None:
    with live_curve("toy") as log:
        for count, row in enumerate(ROWS, 1):
            log(row)
            found = read_live(here, "toy")
            assert {step for values in found.values() for step in values} == {
                earlier["step"] for earlier in ROWS[:count]
            }


def test_begun_anew_it_keeps_nothing_of_before(here: Path) -> None:
    expected = _told()
    _told(({"step": 1, "lr": 0.1, "other": 1.0},))
    Path("metrics/live/toy/report.html").touch()
    assert _told() == expected
    _told(())
    (left,) = (file for file in Path("metrics").rglob("*") if file.is_file())
    assert (left.name, left.read_text()) == ("metrics.json", "{}\n")


@pytest.mark.parametrize("state", ["no commit", "a commit"])
def test_nothing_but_its_files_is_made_and_the_network_left_alone(
    state: str, here: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in a git repository that DVC does not know, nor with the token of DVC Studio."""
    git = ["git", "-c", "user.name=tester", "-c", "user.email=tester@example.invalid"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://example.invalid/x.git"], check=True)
    if state == "a commit":
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], check=True)
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "token")
    monkeypatch.setenv("DVC_STUDIO_URL", "https://example.invalid")
    monkeypatch.setenv("DVC_STUDIO_REPO_URL", "https://example.invalid/x.git")
    before, threads = bytes_below(here / ".git"), threading.active_count()
    _told()
    assert {path.name for path in here.iterdir()} == {".git", "metrics"}
    assert bytes_below(here / ".git") == before
    assert threading.active_count() == threads


def test_trouble_with_the_disk_names_the_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Metric, "dump", full)
    one_line(_told, "metrics/live/toy: cannot be written (No space left on device)")


def test_only_the_first_of_several_processes_writes(here: Path) -> None:
    """Each in a folder of its own, so that a file of the second would be seen."""

    def rank(number: int) -> None:
        Path(str(number)).mkdir()
        with distributed.process_group():
            os.chdir(str(number))
            _told()

    assert [ended.status for ended in as_ranks(2, rank)] == [0, 0]
    assert set(read_live(here / "0", "toy")) == {"loss/cls", "loss/kd_map", "lr", "val/miou"}
    assert list((here / "1").rglob("*")) == []


# --- scores on the way ---------------------------------------------------------------------------


class Moody(nn.Module):
    """Has a batch norm's memory, dropout, and a part that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.still, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.still(self.norm(self.layer(x))))

    def losses(self, batch: Batch, i: int) -> Losses:
        self.still.eval()
        noise = np.random.standard_normal((5, 3))  # noqa: NPY002
        return {"a": self(batch["x"] + torch.from_numpy(noise).float()).square().mean()}


def _run(
    validation: Callable[[Moody], Validation] | None = None,
    state: State | None = None,
    log: Log | None = None,
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    model, generator = Moody(), torch.Generator().manual_seed(1)
    data = [{"x": torch.randn(5, 3, generator=generator)} for _ in range(12)]
    wanted = validation(model) if validation is not None else None
    curve = train(
        *("toy", Toy(model.losses, [model]), from_step(data), RECIPE, CPU),
        state=state,
        log=log,
        validation=wanted,
    )
    return curve, model.state_dict()


def _scoring(model: Moody, times: int = 3, stop: int | None = None) -> Validation:
    """Draws from the generators, as no scoring should, and uses the network."""

    def score(network: nn.Module, step: int) -> dict[str, float]:
        assert not any(layer.training for layer in [*model.modules(), *network.modules()])
        if step == stop:
            raise Broken
        np.random.random(step)  # noqa: NPY002
        with torch.inference_mode():
            return {"miou": float(network(torch.rand(5, 3)).mean())}

    return Validation(times, score)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.full
@pytest.mark.parametrize("times", [0, 1, 3, 11, 50])
def test_scores_on_the_way_change_nothing_of_what_is_trained(times: int) -> None:
    plain, weights = _run()
    curve, scored_weights = _run(lambda model: _scoring(model, times))
    assert _same(scored_weights, weights)
    assert [row for row in curve if "lr" in row] == plain
    assert len(curve) == len(plain) + min(times, 11)


@pytest.mark.parametrize(
    ("times", "iterations", "steps"),
    [
        (0, 640, set()),
        (3, 640, {160, 320, 480}),
        (1, 7, {4}),
        (5, 3, {1, 2}),
        (4, 1, set()),
    ],
)
def test_they_are_spread_evenly_and_none_is_at_the_end(
    times: int, iterations: int, steps: set[int]
) -> None:
    assert Validation(times, lambda network, step: {}).steps(iterations) == steps


@pytest.mark.full
@pytest.mark.parametrize("stop", [3, 6, 9])
def test_a_run_that_broke_while_it_was_scored_goes_on_with_the_score(
    stop: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is trained again: the state was saved before. Its files are those of one run."""
    monkeypatch.setenv("DGKD_SAVE_EVERY", "100000")
    with live_curve("toy") as log:
        curve, weights = _run(_scoring, log=log)
    expected = bytes_below(Path("metrics"))
    state = State("toy")
    with pytest.raises(Broken), live_curve("toy") as log:
        _run(lambda model: _scoring(model, stop=stop), state, log)
    assert state.close(succeeded=False)
    trained: list[int] = []
    losses = Moody.losses

    def counted(model: Moody, batch: Batch, i: int) -> Losses:
        trained.append(i)
        return losses(model, batch, i)

    monkeypatch.setattr(Moody, "losses", counted)
    with live_curve("toy") as log:
        again, same_weights = _run(_scoring, State("toy"), log)
    assert trained == list(range(stop, 12))
    assert again == curve
    assert _same(same_weights, weights)
    assert bytes_below(Path("metrics")) == expected


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
    train("toy", Toy(losses, [model]), batches, recipe, CPU, validation=Validation(2, score))
    return [*seen[1:], model.state_dict()], scored


def test_a_moving_average_is_scored_and_kept_in_the_networks_place() -> None:
    """Computed by hand: weights and statistics of norms are averaged, counts are the last."""
    (first, second, third), _ = _weights(0.0)
    (*trained, kept), scored = _weights(0.75)
    assert _same(trained[0], first)
    assert _same(trained[1], second)
    assert _same(scored[0], first)
    for name, last in third.items():
        if not last.is_floating_point():
            assert (scored[1][name], kept[name]) == (2, 3)
            continue
        two = 0.75 * first[name] + 0.25 * second[name]
        torch.testing.assert_close(scored[1][name], two)
        torch.testing.assert_close(kept[name], 0.75 * two + 0.25 * last)


@pytest.mark.parametrize("best", [3, 9, 12])
def test_the_best_network_is_kept_and_a_run_that_broke_keeps_it_too(best: int, place: Path) -> None:
    """One that broke after its scores, and one between, end with the bits of that step."""
    seen: dict[int, dict[str, Tensor]] = {}

    def scoring(stop: int | None = None) -> Validation:
        def score(network: nn.Module, step: int) -> dict[str, float]:
            if step == stop:
                raise Broken
            seen[step] = deepcopy(network.state_dict())
            return {"miou": 50.0 if step == best else step}

        return Validation(3, score, "miou")

    _, kept = _run(lambda model: scoring())
    assert sorted(seen) == [3, 6, 9, 12]
    assert _same(kept, seen[best])
    for stop in (6, 12):
        state = State("toy")
        with pytest.raises(Broken):
            _run(lambda model, stop=stop: scoring(stop), state)
        assert state.close(succeeded=False)
        assert _same(_run(lambda model: scoring(), State("toy"))[1], kept)
        State("toy").close(succeeded=True)


def test_without_a_score_there_is_no_row() -> None:
    curve, _ = _run(lambda model: replace(_scoring(model), score=lambda network, step: {}))
    assert all("lr" in row for row in curve)
