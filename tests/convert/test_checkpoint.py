"""Reading other people's checkpoints, and the denoisers in them."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from authors_network import State, denoiser_layout, noise, random
from safetensors.torch import save_file
from support import one_line

from dgkd_core.convert import load_authors_checkpoint, load_authors_denoiser
from dgkd_core.convert.authors import read_state

A, B = torch.arange(3.0), torch.ones(2, 2)


WRAPPED: list[tuple[Callable[[Any], Any], tuple[str, ...]]] = [  # what lies beside the state
    (lambda state: state, ()),
    (lambda state: {"model": state, "epoch": 3}, ("epoch",)),
    (lambda state: {"state_dict": state, "optimizer": {"lr": 0.1}}, ("optimizer",)),
    (lambda state: {"epoch": 3, "state_dict": {"model": state}}, ("epoch",)),
]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, prefix: str) -> None:
    state, path = {f"{prefix}a": A, f"{prefix}b.module.c": B}, tmp_path / "a.pth"
    sources: list[tuple[Any, tuple[str, ...]]] = [(tmp_path / "a.safetensors", ())]
    save_file(state, sources[0][0])
    sources += [(wrap(state), beside) for wrap, beside in WRAPPED]
    torch.save(sources[-1][0], path)
    for source, beside in [*sources, (path, ("epoch",)), (str(path), ("epoch",))]:
        where, tensors, rest = read_state(source)
        assert where == (str(source) if isinstance(source, (str, Path)) else "state dict")
        assert list(tensors) == ["a", "b.module.c"]
        assert torch.equal(tensors["a"], A)
        assert rest == beside


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([A], "is of type list"),
        ({"net": {"a": A}}, "'net' is of type dict"),
        ({7: A}, "7 is of type Tensor"),
        ({"\x1b[2J\n": A}, r"'\x1b[2J\n' is of type Tensor"),
        ({"a" * 5000: A}, "is of type Tensor"),
        ({"a": A, "module.a": A}, "holds 'a' twice"),
    ],
)
def test_something_else_is_refused(held: Any, said: str) -> None:
    message = one_line(lambda: read_state(held), "state dict: ", said)
    assert message.isprintable()
    assert len(message) < 300


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    """One line, and the file that the code writes is absent."""
    mark, path = tmp_path / "ran", tmp_path / "student.pth"
    if zipped:
        torch.save({"a": A, "code": _Code(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(_Code(mark)))
    found = "holds 'io.open' beside tensors, refused and not run" if zipped else "not a readable"
    one_line(lambda: load_authors_checkpoint(path), f"{path}: {found}", "expected a state")
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Code(mark))).close()
    assert mark.exists(), "the pickle does run code when it is let"


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    one_line(lambda: read_state(path), path, "no such file")
    torch.save({"a": A}, path)
    path.write_bytes(path.read_bytes()[:-97])
    one_line(lambda: read_state(path), path, "not a readable weights file")


# --- denoisers -----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["ddim.", ""])
def test_a_denoiser_predicts_the_noise_that_the_authors_does(prefix: str) -> None:
    state = random(denoiser_layout(8, prefix), 0)
    if prefix:
        state |= random(denoiser_layout(4, "elsewhere."), 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    denoiser = load_authors_denoiser(state, prefix)
    assert torch.equal(before, torch.get_rng_state())
    assert not denoiser.training
    x = torch.randn(2, 8, 5, 7)
    for t in (0, 400, 999):
        found, expected = denoiser.predict(x, torch.tensor([t, t])), noise(state, prefix, x, t)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for name, value in denoiser.project.state_dict().items():
        assert torch.equal(value, state[f"{prefix}proj.{name}"])


def test_old_and_half_precision_checkpoints_load() -> None:
    """Without batch counters, in float16, from DataParallel; the caller's tensors stay its own."""
    state = {
        f"module.{name}": value.half()
        for name, value in random(denoiser_layout(4, "ddim."), 0).items()
        if not name.endswith("num_batches_tracked")
    }
    denoiser = load_authors_denoiser({"model": state})
    found = denoiser.state_dict()
    time = state["module.ddim.model.time_embedding.weight"]
    assert torch.equal(found["predict.time.weight"], time.float())
    assert all(v == 0 for key, v in found.items() if key.endswith("num_batches_tracked"))
    assert {v.dtype for v in found.values()} == {torch.float32, torch.int64}


def test_a_denoiser_that_is_not_whole_is_refused() -> None:
    state = random(denoiser_layout(4, "ddim."), 0)
    table = "ddim.model.time_embedding.weight"
    one_line(lambda: load_authors_denoiser(state, "kd."), "'kd.model.time_em", "denoiser: 'ddim.'")
    one_line(lambda: load_authors_denoiser({"a": A}), "prefixes with a denoiser: none")
    adapter = "ddim.noise_adapter.fc.weight"
    changed: dict[str, State] = {
        f"{table!r} is (1000, 4), expected (1280, channels)": {table: torch.ones(1000, 4)},
        f"{adapter!r}, which our denoiser does not have": {adapter: A},
    }
    for said, change in changed.items():
        one_line(lambda change=change: load_authors_denoiser(state | change), "state dict", said)
    del state["ddim.model.pred.1.block.3.weight"]
    one_line(lambda: load_authors_denoiser(state), "lacks 1 of", "'ddim.model.pred.1.block.3.weig")
