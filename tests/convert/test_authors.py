"""The authors' checkpoints: where each tensor goes, their forward pass anew, what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from authors_network import (
    Shape,
    State,
    backbone,
    classifier,
    conv,
    light,
    listed,
    norm,
    random,
    shapes,
)
from support import one_line
from torch import Tensor, nn

from dgkd_core.cli.main import main
from dgkd_core.config.choices import MEAN, STD
from dgkd_core.convert import authors, load_authors_checkpoint
from dgkd_core.convert.authors import Report, convert_checkpoint, export_authors_checkpoint
from dgkd_core.datasets.voc import CLASSES
from dgkd_core.models.network import Network
from dgkd_core.models.registry import ModelConfig, load_model
from dgkd_core.models.wide_resnet import WideResNet38

DENOISER_SHAPES = {  # as much of one as a report looks at
    "ddim.model.time_embedding.weight": (1280, 4),
    "ddim.proj.0.weight": (4, 4, 1, 1),
    "ddim.proj.0.bias": (4,),
    "extra.weight": (2,),
}
FUSION = ("backbone.CondNet", "backbone.sft")
PROJECTIONS = ("classifier.feat.", "classifier.feat2.")


@pytest.fixture(scope="module")
def layout() -> dict[str, Shape]:
    """A student's names and shapes; test_names.py compares them with the released ones."""
    with torch.device("meta"):
        return shapes(export_authors_checkpoint(Network(WideResNet38(), 20, 256, "paper")))


@pytest.fixture(scope="module")
def released(layout: dict[str, Shape]) -> State:
    """A student's checkpoint with random values (0.6 GB)."""
    return random(layout, 0)


@pytest.fixture(scope="module")
def student(released: State) -> Network:
    return load_authors_checkpoint(released)


def _teachers(student: State, projections: bool = False) -> State:
    left_out = FUSION if projections else FUSION + PROJECTIONS
    return {name: value for name, value in student.items() if not name.startswith(left_out)}


def _difference(found: Tensor | None, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    assert found is not None
    assert found.shape == expected.shape
    assert expected.std() > 0
    return float((found - expected).abs().max() / expected.abs().max())


def _pictures() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A picture and a depth map, bare and normalised; long enough for the ASPP's widest rate."""
    g = torch.Generator().manual_seed(3)
    image, depth = torch.rand(1, 3, 32, 320, generator=g), torch.rand(1, 1, 32, 320, generator=g)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return image, depth, (image - mean) / std, (depth.repeat(1, 3, 1, 1) - mean) / std


@torch.no_grad()
def test_a_student_computes_what_the_authors_does(released: State, student: Network) -> None:
    image, depth, normal_image, normal_depth = _pictures()
    shallow, deep = backbone(released, normal_image, normal_depth)
    out = student(image, depth)
    mine = student.features(image, depth)
    projected = [
        F.relu(norm(released, f"{name}.1", conv(released, f"{name}.0", x)))
        for name, x in (("classifier.feat", shallow), ("classifier.feat2", deep))
    ]
    differences = {
        "shallow": _difference(mine[0], shallow),
        "deep": _difference(mine[1], deep),
        "logits": _difference(out.logits[:, 1:], classifier(released, shallow, deep)),
        "projected shallow": _difference(out.shallow, projected[0]),
        "projected deep": _difference(out.deep, projected[1]),
    }
    print(differences)
    assert max(differences.values()) < 1e-5, differences
    assert (out.logits[:, 0] == 1).all()


@torch.no_grad()
def test_a_teacher_computes_what_the_authors_does(released: State) -> None:
    """Without DGF2; its projections are random, always the same, and cost the caller nothing."""
    state = _teachers(released)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    teacher, report = convert_checkpoint(state, "teacher")
    assert torch.equal(before, torch.get_rng_state())
    assert report.random == ("project_deep", "project_shallow")
    assert report.loaded
    assert not report.unused
    assert not teacher.uses_depth
    assert not teacher.training
    image, _, normal_image, _ = _pictures()
    expected = classifier(state, *backbone(state, normal_image, None))
    difference = _difference(teacher(image, features=False).logits[:, 1:], expected)
    print(difference)
    assert difference < 1e-5
    torch.manual_seed(12)
    weight = teacher.project_deep[0].weight
    assert isinstance(weight, Tensor)
    assert 0 < weight.std() < 0.1
    again = load_authors_checkpoint(state, "teacher").project_deep
    mine = teacher.project_deep.state_dict()
    assert all(torch.equal(mine[key], value) for key, value in again.state_dict().items())


# --- whole checkpoints ---------------------------------------------------------------------------


def test_export_and_load_are_each_others_inverse(released: State, student: Network) -> None:
    back = export_authors_checkpoint(student)
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], released[name]) for name in released)
    memory = {value.data_ptr() for value in released.values()}
    assert not any(value.data_ptr() in memory for value in back.values()), "copies, not views"
    state = student.state_dict()
    for mine, theirs in {
        "encoder.stem.weight": "backbone.conv1a.weight",
        "encoder.stage4.5.norm2.running_var": "backbone.b4_5.bn_branch2b1.running_var",
        "encoder.stage7.conv3.weight": "backbone.b7.conv_branch2b2.weight",
        "fusion.2.shift.2.bias": "backbone.sft3.SFT_shift_conv1.bias",
        "head.cue.shallow.1.running_mean": "classifier.shallow_mask.fc_skip.1.running_mean",
        "project_deep.0.weight": "classifier.feat2.0.weight",
        "head.classify.4.bias": "classifier.last_conv.8.bias",
    }.items():
        assert torch.equal(state[mine], released[theirs])


def test_a_student_is_frozen_as_in_the_release(student: Network) -> None:
    assert not student.training
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    norms = {
        f"encoder.{name}.{leaf}"
        for name, module in student.encoder.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for leaf in ("weight", "bias")
    }
    assert frozen == norms | {"encoder.stem.weight"}
    assert all(not value.is_meta for value in student.state_dict().values())


def test_all_that_is_listed_is_loaded_and_the_rest_reported() -> None:
    """A teacher's list, the classes changed, with PAMR's kernels and two denoisers beside it."""
    keys = listed("teacher_checkpoint_keys.txt")
    state = light(keys) | {
        "classifier.last_conv.8.weight": torch.zeros(()).expand(7, 256, 1, 1),
        "classifier.last_conv.8.bias": torch.zeros(7),
    }
    denoiser = listed("diffkd_keys_C.txt")
    for prefix in ("ddim.", "kd.deep."):
        state |= light({prefix + k.removeprefix("ddim."): v for k, v in denoiser.items()})
    network, report = convert_checkpoint({"model": state, "epoch": 3})
    assert (report.role, report.classes, report.beside) == ("teacher", 7, ("epoch",))
    assert len(report.loaded) == len(keys) - 3
    assert set(report.loaded) | set(report.constants) == keys.keys()
    assert report.denoisers == ("ddim.", "kd.deep.")
    assert set(report.loaded) | set(report.constants) | set(report.unused) == state.keys()
    assert report.random == ()
    assert network.head.classify[4].bias.tolist() == 7 * [0.0]
    text = "\n".join(report.lines())
    assert f"{len(report.loaded)} of {len(state)} tensors used: a teacher, 7 classes" in text
    assert "not used, 57 under 'kd.deep.': model.time_embedding.weight, " in text
    assert "a denoiser is under 'kd.deep.'" in text
    for name in (*report.unused, *report.constants):
        assert name.removeprefix("ddim.").removeprefix("kd.deep.") in text


def test_a_few_unused_names_have_a_line_each() -> None:
    report = Report("student", 1, ("a",), ("b.c", "d"), (), (), (), ())
    assert report.lines()[1:] == ["not used: b.c", "not used: d"]


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (("backbone.b4_1.conv_branch2a.weight",), "lacks 1 of the 356 tensors of a student: "),
        (("classifier.feat.",), "and 3 more"),
        (("classifier.last_conv.8.weight",), "expected a student or teacher of the authors"),
    ],
)
def test_a_missing_tensor_is_named(
    layout: dict[str, Shape], left_out: tuple[str, ...], said: str
) -> None:
    state = {k: v for k, v in light(layout).items() if not k.startswith(left_out)}
    one_line(lambda: load_authors_checkpoint(state), "state dict", left_out[0], said)


def test_half_of_a_teachers_projections_is_refused(layout: dict[str, Shape]) -> None:
    state = _teachers(light(layout), projections=True)
    del state["classifier.feat2.0.weight"]
    one_line(lambda: load_authors_checkpoint(state, "teacher"), "'classifier.feat2.0.weight'")


def test_the_wrong_role_is_refused(layout: dict[str, Shape]) -> None:
    state = light(layout)
    one_line(lambda: load_authors_checkpoint(state, "teacher"), "CondNet", "role student")
    state = _teachers(state, projections=True)
    one_line(lambda: load_authors_checkpoint(state), "lacks 36 of", "'backbone.CondNet.")
    with pytest.raises(ValueError, match="'pupil'"):
        load_authors_checkpoint(state, "pupil")  # type: ignore[arg-type]


WRONG = {
    "a shape": (torch.ones(64, 3, 5, 5), "(64, 3, 5, 5), expected (64, 3, 3, 3)"),
    "a type": (torch.ones(64, 3, 3, 3, dtype=torch.int64), "torch.int64"),
    "sparse": (torch.ones(64, 3, 3, 3).to_sparse(), "torch.sparse_coo"),
    "meta": (torch.ones(64, 3, 3, 3, device="meta"), "meta"),
    "nan": (torch.full((64, 3, 3, 3), float("nan")), "not finite"),
    "too large": (torch.full((64, 3, 3, 3), 1e200, dtype=torch.float64), "not finite"),
}


@pytest.mark.parametrize(("value", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_tensor_is_named(layout: dict[str, Shape], value: Tensor, said: str) -> None:
    name = "backbone.conv1a.weight"
    state = light(layout) | {name: value}
    one_line(lambda: load_authors_checkpoint(state), "state dict", repr(name), said)


def test_a_wrong_class_layer_is_named(layout: dict[str, Shape]) -> None:
    for shape in ((20, 256), (0, 256, 1, 1), (20, 128, 1, 1)):
        state = light(layout) | {"classifier.last_conv.8.weight": torch.ones(shape)}
        one_line(lambda state=state: load_authors_checkpoint(state), "(classes, 256, 1, 1)")


# --- the command ---------------------------------------------------------------------------------


def _dgkd(*arguments: str | Path) -> None:
    main(["convert", "authors", *map(str, arguments)])


def _refused(*arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as caught:
        _dgkd(*arguments)
    line = caught.value.code
    assert isinstance(line, str)
    assert line.startswith("dgkd: ")
    assert "\n" not in line
    return line


@pytest.mark.full
def test_a_checkpoint_becomes_a_model_folder(
    released: State, student: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrapped, from DataParallel, with a denoiser beside the network, over an older model."""
    source, out = tmp_path / "student.pth", tmp_path / "models" / "released"
    out.mkdir(parents=True)
    (out / "model.json").write_text("{}")
    denoiser = random(DENOISER_SHAPES, 1)
    whole = released | {f"map_kd.{name}": value for name, value in denoiser.items()}
    try:
        wrapped = {f"module.{name}": value for name, value in whole.items()}
        torch.save({"epoch": 3, "state_dict": wrapped}, source)
        _dgkd(source, out)
        source.unlink()
        said = capsys.readouterr().out.splitlines()
        loaded, config = load_model(out)
    finally:
        shutil.rmtree(out)
    assert said == [
        f"{source}: holds backbone.CondNet: taken for a student",
        f"{source}: 356 of 360 tensors used: a student, 20 classes",
        *(f"{source}: not used: map_kd.{name}" for name in denoiser),
        f"{source}: a denoiser is under 'map_kd.ddim.'",
        f"{source}: beside the state dict, not read: epoch",
        f"{out}: written; classes {', '.join(CLASSES)}",
    ]
    assert config == ModelConfig(
        *("network", CLASSES, "wide_resnet38", 8, 256, (12, 24, 36), "paper", "none", True)
    )
    mine = student.state_dict()
    assert mine.keys() == loaded.state_dict().keys()
    assert all(torch.equal(mine[key], value) for key, value in loaded.state_dict().items())
    image, depth = torch.rand(1, 3, 32, 40), torch.rand(1, 1, 32, 40)
    with torch.no_grad():
        found, expected = loaded(image, depth).logits, student(image, depth).logits
    assert _difference(found, expected) < 1e-5


def test_what_is_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    folder, file = tmp_path / "work", tmp_path / "notes.txt"
    folder.mkdir()
    file.write_text("mine")
    for out in (folder, file):
        assert f"{out}: exists and is no model folder" in _refused(tmp_path / "a.pth", out)
    (folder / "model.json").write_text("{}")
    assert "holds the checkpoint itself" in _refused(folder / "a.pth", folder)
    assert file.read_text() == "mine"
    assert f"{tmp_path / 'a.pth'}: no such file" in _refused(tmp_path / "a.pth", folder)
    assert [p.name for p in folder.iterdir()] == ["model.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "work"]


NAMES = {
    (20, None): CLASSES,
    (8, None): authors.LIS_CLASSES,
    (2, "cat, dog"): ("cat", "dog"),
    (3, None): "--classes is missing: the checkpoint has 3 classes",
    (3, "a,b"): "--classes is 'a,b', expected 3 different names",
    (3, "a,b,a"): "expected 3 different names",
    (3, "a,,b"): "expected 3 different names",
}


@pytest.mark.parametrize(("given", "expected"), NAMES.items(), ids=str)
def test_class_names(
    given: tuple[int, str | None],
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = Report("teacher", given[0], (), (), (), (), (), ())
    saved: list[ModelConfig] = []
    monkeypatch.setattr(authors, "convert_checkpoint", lambda source, role: (None, report))
    monkeypatch.setattr(authors, "save_model", lambda out, network, config: saved.append(config))
    arguments = [] if given[1] is None else ["--classes", given[1]]
    if isinstance(expected, str):
        assert expected in _refused(tmp_path / "a.pth", tmp_path / "out", *arguments)
        assert not saved
    else:
        _dgkd(tmp_path / "a.pth", tmp_path / "out", *arguments)
        assert saved[0].classes == expected
        assert saved[0].dgf2 == "off"
