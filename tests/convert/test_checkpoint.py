"""Reading other people's checkpoints, and the denoisers in them."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from authors_network import State, noise, random
from safetensors.torch import save_file
from support import one_line

from dgkd_core.cli.main import main
from dgkd_core.convert import load_authors_checkpoint, load_authors_denoiser
from dgkd_core.convert.checkpoint import read_state
from dgkd_core.convert.names import DENOISER, authors_name
from dgkd_core.distill.denoiser import FeatureDenoiser

A, B = torch.arange(3.0), torch.ones(2, 2)


@pytest.mark.parametrize("wrapper", ["bare", "model", "state_dict", "both", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state: Any = {f"{prefix}a": A, f"{prefix}b.module.c": B}
    wrapped = {
        "model": {"model": state, "epoch": 3},
        "state_dict": {"state_dict": state, "optimizer": {"lr": 0.1}},
        "both": {"epoch": 3, "state_dict": {"model": state}},
    }.get(wrapper, state)
    path = tmp_path / ("a.safetensors" if wrapper == "safetensors" else "a.pth")
    save_file(state, path) if wrapper == "safetensors" else torch.save(wrapped, path)
    beside = {"model": ("epoch",), "state_dict": ("optimizer",), "both": ("epoch",)}
    for source, name in ((wrapped, "state dict"), (path, str(path)), (str(path), str(path))):
        where, tensors, rest = read_state(source)
        assert where == name
        assert list(tensors) == ["a", "b.module.c"]
        assert torch.equal(tensors["a"], A)
        assert torch.equal(tensors["b.module.c"], B)
        assert rest == beside.get(wrapper, ())


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([A], "is of type list"),
        (3, "is of type int"),
        ({"net": {"a": A}}, "'net' is of type dict"),
        ({"a": A, "epoch": 3}, "'epoch' is of type int"),
        ({7: A}, "7 is of type Tensor"),
        ({"a\nb": A}, r"'a\nb' is of type Tensor"),
        ({"\x1b[2J": A}, r"'\x1b[2J' is of type Tensor"),
        ({"a" * 5000: A}, "is of type Tensor"),
        ({"a": A, "module.a": A}, "holds 'a' twice"),
    ],
)
def test_something_else_is_refused(tmp_path: Path, held: Any, said: str) -> None:
    path = tmp_path / "a.pth"
    torch.save(held, path)
    message = one_line(lambda: read_state(path), path, said)
    assert message.isprintable()
    assert len(message) < len(str(path)) + 300


def test_a_wrapper_that_holds_itself_ends() -> None:
    held: dict[str, Any] = {}
    held["model"] = held
    one_line(lambda: read_state(held), "'model' is of type dict")


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["zipped", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    """By the function and by the command: one line, and the file that the code writes is absent."""
    mark, path = tmp_path / "ran", tmp_path / "student.pth"
    content = {"a": A, "code": _Code(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(_Code(mark)))
    else:
        torch.save(content, path)
    said = one_line(lambda: load_authors_checkpoint(path), path, "expected a state dict of tensors")
    if kind != "pickle":
        assert "holds 'io.open' beside tensors, refused and not run" in said
    with pytest.raises(SystemExit) as caught:
        main(["convert", "authors", str(path), str(tmp_path / "out")])
    assert caught.value.code == f"dgkd: {said}"
    assert [file.name for file in tmp_path.iterdir()] == ["student.pth"]
    pickle.loads(pickle.dumps(_Code(mark))).close()
    assert mark.exists(), "the pickle does run code when it is let"


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    one_line(lambda: read_state(path), path, "no such file")
    one_line(lambda: read_state(tmp_path), tmp_path, "not a readable PyTorch checkpoint")
    torch.save({"a": A}, path)
    path.write_bytes(path.read_bytes()[:-97])
    one_line(lambda: read_state(path), path, "not a readable PyTorch checkpoint")


# --- denoisers -----------------------------------------------------------------------------------


def _released(channels: int, prefix: str = "ddim.", seed: int = 0) -> State:
    """A denoiser's raw tensors; test_names.py compares the names with the released ones."""
    state = FeatureDenoiser(channels).state_dict()
    names = {prefix + authors_name(key, DENOISER): tuple(v.shape) for key, v in state.items()}
    return random(names, seed)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["ddim.", ""])
def test_a_denoiser_predicts_the_noise_that_the_authors_does(prefix: str) -> None:
    state = _released(8, prefix)
    if prefix:
        state |= _released(4, "elsewhere.", seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    denoiser = load_authors_denoiser(state, prefix)
    assert torch.equal(before, torch.get_rng_state())
    assert not denoiser.training
    assert denoiser.timesteps == [400, 300, 200, 100, 0]
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
        for name, value in _released(4).items()
        if not name.endswith("num_batches_tracked")
    }
    denoiser = load_authors_denoiser({"model": state})
    found = denoiser.state_dict()
    time = state["module.ddim.model.time_embedding.weight"]
    assert torch.equal(found["predict.time.weight"], time.float())
    counters = [value for key, value in found.items() if key.endswith("num_batches_tracked")]
    assert len(counters) == 8
    assert all(value == 0 for value in counters)
    assert all(v.dtype in (torch.float32, torch.int64) for v in found.values())


def test_a_denoiser_that_is_not_whole_is_refused() -> None:
    state = _released(4)
    table = "ddim.model.time_embedding.weight"
    one_line(lambda: load_authors_denoiser(state, "kd."), "'kd.model.time_em", "denoiser: 'ddim.'")
    one_line(lambda: load_authors_denoiser({"a": A}), "prefixes with a denoiser: none")
    changed: list[tuple[str, State]] = [
        (table, {table: torch.ones(1000, 4)}),
        ("expected (1280, channels)", {table: torch.ones(1280)}),
        ("'ddim.proj.0.weight' is (4, 3, 1, 1), expected (4,", {"ddim.proj.0.weight": B}),
        ("'ddim.noise_adapter.fc.weight', which our denoiser", {"ddim.noise_adapter.fc.weight": A}),
        ("'ddim.proj.0.bias' holds values", {"ddim.proj.0.bias": torch.tensor([1, torch.nan] * 2)}),
    ]
    changed[2][1]["ddim.proj.0.weight"] = torch.ones(4, 3, 1, 1)
    for said, change in changed:
        one_line(lambda change=change: load_authors_denoiser(state | change), "state dict", said)
    del state["ddim.model.pred.1.block.3.weight"]
    one_line(lambda: load_authors_denoiser(state), "lacks 1 of", "'ddim.model.pred.1.block.3.weig")
