"""The authors' checkpoints: the released names, where each tensor goes, what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from authors_network import denoiser_layout, layout, light, listed, random
from support import one_line

from dgkd_core.cli.main import main
from dgkd_core.convert import authors, load_authors_checkpoint
from dgkd_core.convert.authors import convert_checkpoint, export_authors_checkpoint
from dgkd_core.datasets.voc import CLASSES
from dgkd_core.models.network import Network
from dgkd_core.models.registry import ModelConfig, load_model
from dgkd_core.models.wide_resnet import WideResNet38

DENOISER_SHAPES = {  # as much of one as a report looks at
    "ddim.model.time_embedding.weight": (1280, 4),
    "ddim.proj.0.bias": (4,),
    "extra.weight": (2,),
}
FUSION = ("backbone.CondNet", "backbone.sft")


# --- names ---------------------------------------------------------------------------------------


def test_names_and_shapes_are_the_released_ones() -> None:
    """All but PAMR's constant kernels."""
    for who, dgf2 in (("student", "paper"), ("teacher", "off")):
        keys = listed(f"{who}_checkpoint_keys.txt")
        theirs = {name: shape for name, shape in keys.items() if "._aff." not in name}
        assert len(keys) - len(theirs) == 3
        assert layout(20, dgf2) == theirs
    assert denoiser_layout(32, "ddim.") == listed("diffkd_keys_C.txt")


@pytest.mark.parametrize("change", [{"dgf2": "gated"}, {"width": 8}, {"curve": True}], ids=str)
def test_what_the_authors_have_no_name_for_is_not_exported(change: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = Network(WideResNet38(), 3, **change)
    with pytest.raises(ValueError, match="no place in the authors' network"):
        export_authors_checkpoint(network)


# --- whole checkpoints ---------------------------------------------------------------------------


FEAT = ("classifier.feat.", "classifier.feat2.")


def test_all_that_is_listed_is_loaded_and_the_rest_reported() -> None:
    """A teacher as it is released, without projections, with seven classes and two denoisers."""
    keys = listed("teacher_checkpoint_keys.txt")
    keys = {name: shape for name, shape in keys.items() if not name.startswith(FEAT)}
    state = light(keys) | {
        "classifier.last_conv.8.weight": torch.zeros(()).expand(7, 256, 1, 1),
        "classifier.last_conv.8.bias": torch.zeros(7),
    }
    denoiser = listed("diffkd_keys_C.txt")
    for prefix in ("ddim.", "kd.deep."):
        state |= light({prefix + k.removeprefix("ddim."): v for k, v in denoiser.items()})
    network, role, classes, report = convert_checkpoint({"model": state, "epoch": 3})
    assert (role, classes) == ("teacher", 7)
    assert network.head.classify[4].bias.tolist() == 7 * [0.0]
    assert 0 < network.project_deep[0].weight.std() < 0.1
    kernels = ", ".join(name for name in keys if "._aff." in name)
    names = ", ".join(name.removeprefix("ddim.") for name in denoiser)
    assert report == [
        f"{len(keys) - 3} of {len(state)} tensors used: a teacher, 7 classes",
        "not in the checkpoint, left random: project_deep, project_shallow",
        f"not needed (PAMR's constant kernels): {kernels}",
        f"not used, 57 under 'ddim.': {names}",
        f"not used, 57 under 'kd.deep.': {names}",
        "a denoiser is under 'ddim.'",
        "a denoiser is under 'kd.deep.'",
        "beside the state dict, not read: epoch",
    ]


def test_random_projections_are_always_the_same_and_cost_the_caller_no_random_number() -> None:
    made = []
    for seed in (11, 12):
        with torch.device("meta"):
            network = Network(WideResNet38(), 3, 256)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        authors._initialise(network)
        assert torch.equal(before, torch.get_rng_state())
        made.append(network.project_deep.state_dict())
    assert all(torch.equal(value, made[1][key]) for key, value in made[0].items())


STUDENT = layout(20, "paper")
STEM, CLASS_LAYER = "backbone.conv1a.weight", "classifier.last_conv.8.weight"
LACKS: list[tuple[tuple[str, ...], Any, list[str]]] = [  # left out; role; what is said
    (("backbone.b4.conv_branch2a.",), "student", ["lacks 1 of the 356 tensors of a student: 'b"]),
    (("classifier.feat.",), "student", ["classifier.feat.", "and 3 more"]),
    ((CLASS_LAYER,), "student", [CLASS_LAYER, "expected a student or teacher"]),
    ((*FUSION, "classifier.feat2.0.weight"), "teacher", ["'classifier.feat2.0.weight'"]),
    ((" ",), "teacher", ["CondNet", "role student"]),
]
WRONG = [
    (STEM, torch.ones(64, 3, 5, 5), "(64, 3, 5, 5), a student expects (64, 3, 3, 3)"),
    (STEM, torch.ones(64, 3, 3, 3, dtype=torch.int64), "torch.int64"),
    (STEM, torch.full((64, 3, 3, 3), torch.nan), "holds NaN or infinity"),
    (CLASS_LAYER, torch.ones(20, 256), "(classes, 256, 1, 1)"),
]


def test_a_tensor_that_is_missing_or_wrong_is_named() -> None:
    for left_out, role, said in LACKS:
        state = {k: v for k, v in light(STUDENT).items() if not k.startswith(left_out)}
        one_line(lambda s=state, r=role: load_authors_checkpoint(s, r), "state dict", *said)
    for name, value, text in WRONG:
        state = light(STUDENT) | {name: value}
        one_line(lambda s=state: load_authors_checkpoint(s), "state dict", repr(name), text)


# --- the command ---------------------------------------------------------------------------------


def _dgkd(*arguments: str | Path) -> None:
    main(["convert", "authors", *map(str, arguments)])


def _refused(*arguments: str | Path) -> str:
    with pytest.raises(SystemExit, match=r"\Adgkd: .+\Z") as caught:
        _dgkd(*arguments)
    return str(caught.value.code)


@pytest.mark.full
def test_a_checkpoint_becomes_a_model_folder_and_a_checkpoint_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrapped, from DataParallel, with a denoiser beside the network, over an older model; 2 GB."""
    source, out = tmp_path / "student.pth", tmp_path / "models" / "released"
    out.mkdir(parents=True)
    (out / "model.json").write_text("{}")
    released = random(layout(20, "paper"), 0)
    denoiser = {f"map_kd.{name}": value for name, value in random(DENOISER_SHAPES, 1).items()}
    wrapped = {f"module.{name}": value for name, value in (released | denoiser).items()}
    try:
        torch.save({"epoch": 3, "state_dict": wrapped}, source)
        _dgkd(source, out)
        loaded, config = load_model(out)
    finally:
        source.unlink(missing_ok=True)
        shutil.rmtree(out)
    assert capsys.readouterr().out.splitlines() == [
        f"{source}: holds backbone.CondNet: taken for a student",
        f"{source}: 356 of 359 tensors used: a student, 20 classes",
        f"{source}: not used, 2 under 'map_kd.ddim.': model.time_embedding.weight, proj.0.bias",
        f"{source}: not used, 1 under 'map_kd.': extra.weight",
        f"{source}: a denoiser is under 'map_kd.ddim.'",
        f"{source}: beside the state dict, not read: epoch",
        f"{out}: written; classes {', '.join(CLASSES)}",
    ]
    assert config == ModelConfig(
        *("network", CLASSES, "wide_resnet38", 8, 256, (12, 24, 36), "paper", "none", False)
    )
    assert all(p.requires_grad for p in loaded.parameters()), "the release's student trains all"
    back = export_authors_checkpoint(loaded)
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], value) for name, value in released.items())


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


@pytest.mark.parametrize(
    ("count", "given", "expected"),
    [
        (20, None, CLASSES),
        (8, None, authors.LIS_CLASSES),
        (2, "cat, dog", ("cat", "dog")),
        (3, None, "--classes is missing: the checkpoint has 3 classes"),
        (3, "a,b", "--classes is 'a,b', expected 3 different names"),
        (3, "a,b,a", "expected 3 different names"),
    ],
)
def test_class_names(
    count: int, given: str | None, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, saved = (None, "teacher", count, []), list[ModelConfig]()
    monkeypatch.setattr(authors, "convert_checkpoint", lambda source, role: found)
    monkeypatch.setattr(authors, "save_model", lambda out, network, config: saved.append(config))
    arguments = [tmp_path / "a.pth", tmp_path / "out", *(["--classes", given] if given else [])]
    if isinstance(expected, str):
        assert expected in _refused(*arguments)
        assert not saved
    else:
        _dgkd(*arguments)
        assert (saved[0].classes, saved[0].dgf2) == (expected, "off")
