"""WideResNet-38's ImageNet weights from MXNet's names to this project's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from authors_network import listed
from params_file import (
    Arrays,
    save,
    values,
)
from safetensors.torch import load_file
from support import lively
from torch import Tensor, nn

from dgkd_core.convert import mxnet
from dgkd_core.convert.mxnet import convert_mxnet, read_params, wide_resnet38_weights
from dgkd_core.models.encoder import Encoder
from dgkd_core.models.registry import load_backbone
from dgkd_core.models.wide_resnet import Block, Bottleneck, WideResNet38
from dgkd_core.runtime.errors import InputError

BLOCKS = [
    *("2a", "2b1", "2b2", "3a", "3b1", "3b2"),
    *("4a", "4b1", "4b2", "4b3", "4b4", "4b5", "5a", "5b1", "5b2", "6a", "7a"),
]


def _norm(layer: str) -> list[str]:
    arguments = [f"arg:{layer}_gamma", f"arg:{layer}_beta"]
    return [*arguments, f"aux:{layer}_moving_mean", f"aux:{layer}_moving_var"]


def _source_names() -> list[str]:
    """The names in the MXNet file, in the order in which a forward pass meets the layers."""
    names = ["arg:conv1a_weight"]
    for block in BLOCKS:
        for branch in ("branch2a", "branch2b1", "branch2b2")[: 3 if block in ("6a", "7a") else 2]:
            names += [*_norm(f"bn{block}_{branch}"), f"arg:res{block}_{branch}_weight"]
        if block.endswith("a"):
            names.append(f"arg:res{block}_branch1_weight")
    return names + _norm("bn7")


def _state(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


class Small(WideResNet38):
    """WideResNet38 with all widths divided by 32."""

    def __init__(self) -> None:
        Encoder.__init__(self, 8, 128, (4, 8, 16))
        self.stem = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        for stage, width, count in ((2, 4, 2), (3, 8, 2), (4, 16, 5)):
            blocks = [Block(width, width, width, 1, 1, 1) for _ in range(count)]
            first = Block(width // 2, width, width, 2, 1, 1)
            setattr(self, f"stage{stage}", nn.Sequential(first, *blocks))
        followers = (Block(32, 16, 32, 1, 2, 2), Block(32, 16, 32, 1, 2, 2))
        self.stage5 = nn.Sequential(Block(16, 16, 32, 1, 2, 1), *followers)
        self.stage6, self.stage7 = Bottleneck(32, 64, 4, 0.3), Bottleneck(64, 128, 4, 0.5)
        self.norm7 = nn.BatchNorm2d(128)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """A Small network's weights under MXNet's names; the module under test expects such a one."""
    monkeypatch.setattr(mxnet, "WideResNet38", Small)
    state = _state(lively(Small()).float())
    return dict(zip(_source_names(), (v.numpy() for v in state.values()), strict=True))


def test_the_names_are_those_behind_the_released_checkpoint() -> None:
    """Its names were made from MXNet's, and list the layers in the order of our state dict."""
    found = []
    for key, shape in listed("student_checkpoint_keys.txt").items():
        key = re.sub(r"^backbone\.(b\d(_\d)?\.|conv1a|bn7)", r"\1", key)  # the trunk, no DGF2
        if key.startswith(("backbone", "classifier")) or key.endswith("num_batches_tracked"):
            continue
        key = re.sub(r"^b(\d)\.(\w+)_branch", r"\2\1a_branch", key)
        key = re.sub(r"^b(\d)_(\d)\.(\w+)_branch", r"\3\1b\2_branch", key)
        layer, value = re.sub("^conv(?!1a)", "res", key).split(".")
        if layer.startswith("bn"):
            value = {"weight": "gamma", "bias": "beta"}.get(value, value)
        kind = "aux" if value.startswith("running") else "arg"
        found.append((f"{kind}:{layer}_{value.replace('running', 'moving')}", shape))
    with torch.device("meta"):
        ours = [tuple(value.shape) for value in _state(WideResNet38()).values()]
    assert found == list(zip(_source_names(), ours, strict=True))


@pytest.mark.filterwarnings("error")
def test_each_tensor_lands_in_its_place(small: Arrays) -> None:
    """Read-only arrays too: torch would warn that it shares them."""
    numbers = zip(small, range(1, 1000), strict=False)
    numbered = {name: np.broadcast_to(np.float32(i), small[name].shape) for name, i in numbers}
    weights = wide_resnet38_weights(numbered | {"arg:linear1000_bias": np.zeros(3, "<f4")})
    assert set(weights) == set(Small().state_dict())
    for i, key in enumerate(_state(Small())):
        assert weights[key].dtype == torch.float32
        assert weights[key].unique().tolist() == [i + 1]
    counters = [weights[key] for key in weights if key.endswith("num_batches_tracked")]
    assert len(counters) == 37
    assert all(counter.dtype == torch.int64 and counter.item() == 0 for counter in counters)


def test_every_tensor_of_the_whole_network_has_its_source() -> None:
    with torch.device("meta"):
        state = _state(WideResNet38())
    pairs = dict(zip(state, _source_names(), strict=True))
    nothing = np.float32(0)
    arrays = {pairs[key]: np.broadcast_to(nothing, value.shape) for key, value in state.items()}
    assert mxnet._sources(arrays) == pairs


def _wu(p: Mapping[str, np.ndarray], x: Tensor) -> tuple[Tensor, Tensor]:
    """The network of Wu et al. by the names of its layers, at output stride 8: both taps."""
    t = {name.split(":")[1]: torch.from_numpy(array) for name, array in p.items()}

    def active(x: Tensor, layer: str) -> Tensor:
        mean, variance = t[f"{layer}_moving_mean"], t[f"{layer}_moving_var"]
        return F.relu(F.batch_norm(x, mean, variance, t[f"{layer}_gamma"], t[f"{layer}_beta"]))

    x = F.conv2d(x, t["conv1a_weight"], padding=1)
    taps = {}
    for block in BLOCKS:
        stride = 2 if block in ("2a", "3a", "4a") else 1
        dilation = {"5": 2, "6": 4, "7": 4}.get(block[0], 1)
        start = y = active(x, f"bn{block}_branch2a")
        for branch in ("branch2a", "branch2b1", "branch2b2"):
            if (name := f"res{block}_{branch}_weight") not in t:
                break
            y = y if branch == "branch2a" else active(y, f"bn{block}_{branch}")
            first = branch == "branch2a"
            d = 1 if t[name].shape[-1] == 1 or (first and block == "5a") else dilation
            pad = d * (t[name].shape[-1] // 2)
            y = F.conv2d(y, t[name], stride=stride if first else 1, padding=pad, dilation=d)
        if block.endswith("a"):
            x = F.conv2d(start, t[f"res{block}_branch1_weight"], stride=stride)
        x = taps[block] = x + y
    return taps["3b2"], active(x, "bn7")


def test_the_converted_network_computes_what_theirs_does(tmp_path: Path, small: Arrays) -> None:
    source = save(tmp_path / "a.params", small)
    convert_mxnet(source, tmp_path / "a.safetensors")
    net = Small()
    assert load_backbone(net, tmp_path / "a.safetensors") == []
    image = torch.randn(2, 3, 33, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(image), _wu(small, image))


@pytest.mark.parametrize("code", ["<f2", "<f4", "<f8"])
def test_every_float_becomes_aligned_float32(tmp_path: Path, small: Arrays, code: str) -> None:
    rounded = {name: array.astype(code) for name, array in small.items()}
    shifted = {"x": values((3,), "u1")} | rounded  # what follows is not aligned
    weights = wide_resnet38_weights(read_params(save(tmp_path / "a.params", shifted)))
    for key, array in zip(_state(Small()), rounded.values(), strict=True):
        assert np.array_equal(weights[key].numpy(), array.astype(np.float32)), key
        assert weights[key].dtype == torch.float32
        assert weights[key].data_ptr() % 4 == 0


def test_moving_may_be_missing_in_the_names(small: Arrays) -> None:
    short = {name.replace("_moving_", "_"): array for name, array in small.items()}
    assert len(set(short) - set(small)) == 2 * 37
    expected = wide_resnet38_weights(small)
    for key, value in wide_resnet38_weights(short).items():
        assert torch.equal(value, expected[key])


CONV, VAR = "arg:res5b1_branch2a_weight", "aux:bn2a_branch2a_moving_var"
SHORT = VAR.replace("moving_", "")
EXPECTS = "WideResNet-38 expects (16, 32, 3, 3) of a float type"
NOT_FINITE = f"{CONV} holds values that are not finite in float32"
Change = Callable[[np.ndarray], Arrays]
CHANGES: list[tuple[str, Change, str]] = [
    (CONV, lambda a: {}, f"no {CONV} or aux{CONV[3:]}, expected one of shape (16, 32, 3, 3)"),
    (
        VAR,
        lambda a: {},
        f"no arg{VAR[3:]} or {VAR} or arg{SHORT[3:]} or {SHORT}, expected one of shape (2,)",
    ),
    (VAR, lambda a: {VAR: a, SHORT: a}, f"both {VAR} and {SHORT}, expected one of them"),
    (CONV, lambda a: {CONV: a[:, 1:]}, f"{CONV} is (16, 31, 3, 3) of float32, {EXPECTS}"),
    (CONV, lambda a: {CONV: a.astype("<i4")}, f"{CONV} is (16, 32, 3, 3) of int32, {EXPECTS}"),
    (CONV, lambda a: {CONV: a.ravel()[:0]}, f"{CONV} is (0,) of float32, {EXPECTS}"),
    (CONV, lambda a: {CONV: np.where(a == a.max(), np.float32("nan"), a)}, NOT_FINITE),
    (CONV, lambda a: {CONV: np.where(a == a.max(), 1e300, a.astype(float))}, NOT_FINITE),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "change", "message"), CHANGES)
def test_unfit_tensors_are_refused_by_name_and_nothing_is_written(
    tmp_path: Path, small: Arrays, name: str, change: Change, message: str
) -> None:
    arrays = {key: array for key, array in small.items() if key != name} | change(small[name])
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        wide_resnet38_weights(arrays)
    source = save(tmp_path / "a.params", arrays)
    with pytest.raises(InputError, match=f"^{re.escape(f'{source}: {message}')}$"):
        convert_mxnet(source, tmp_path / "deep" / "a.safetensors")
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_told_and_written(tmp_path: Path, small: Arrays) -> None:
    extra = {"arg:linear1000_weight": values((10, 128)), "arg:linear1000_bias": values((10,))}
    extra["a\nb"] = values((1,), "u1")
    source, out = tmp_path / "a.params", tmp_path / "deep" / "wrn38.safetensors"
    lines = convert_mxnet(save(source, small | extra), out)
    assert lines == [
        f"{out}: {len(small)} of {len(small) + 3} tensors of {source}",
        r"unused: 'a\nb'",
        "unused: 'arg:linear1000_bias'",
        "unused: 'arg:linear1000_weight'",
        f"set model.backbone=wide_resnet38 model.weights={out}",
    ]
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert set(load_file(out)) == set(Small().state_dict())
    first = out.read_bytes()
    convert_mxnet(source, out)
    assert out.read_bytes() == first


@pytest.mark.parametrize("name", ["a.pth", "safetensors"])
def test_another_ending_is_refused_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected a file name that ends in \.safetensors$"):
        convert_mxnet(tmp_path / "missing.params", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_outlives_a_failure(
    tmp_path: Path, small: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = save(tmp_path / "a.params", small), tmp_path / "a.safetensors"
    out.write_bytes(b"before")

    def fails(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(mxnet, "save_file", fails)
    with pytest.raises(InputError, match="no space"):
        convert_mxnet(source, out)
    assert out.read_bytes() == b"before"
    assert set(tmp_path.iterdir()) == {source, out}
