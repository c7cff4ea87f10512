"""`dgkd preset`: overlays on params.yaml that keep its comments and never leave it broken."""

import hashlib
import shutil
from pathlib import Path

import pytest
from dvc.utils.serialize import modify_yaml, parse_yaml
from ruamel.yaml import YAML

from dgkd_core.cli.main import main
from dgkd_core.config.params import load_params
from dgkd_core.config.presets import apply_preset, preset_names
from dgkd_core.runtime.errors import InputError
from dgkd_core.runtime.files import sha256
from dgkd_core.training.loop import Recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "presets", folder / "presets")
    monkeypatch.chdir(folder)
    return folder


def _values(path: Path) -> object:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def _comments(text: str) -> list[str]:
    return [line.partition("# ")[2] for line in text.splitlines() if "# " in line]


def test_every_preset_of_the_project_gives_valid_params(project: Path) -> None:
    paper = {"voc12", "lis", "voc2lis"}
    assert paper | {"scenes", "voc12-animals"} <= set(preset_names(project))
    with pytest.raises(InputError, match=r"weights/wide_resnet38\.safetensors is not a file"):
        apply_preset("voc12", [], project)
    (project / "weights").mkdir()
    (project / "weights" / "wide_resnet38.safetensors").write_bytes(b"weights")
    for name in preset_names(project):
        apply_preset(name, [], project)
        load_params(project / "params.yaml")


def test_scenes_is_the_committed_file(project: Path) -> None:
    assert _values(ROOT / "presets" / "scenes.yaml") == _values(ROOT / "params.yaml")
    main(["preset", "scenes"])
    assert (project / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_scenes_brings_the_committed_file_back(project: Path) -> None:
    path = project / "params.yaml"
    values = ["data.root=/x y/z", "distill.lambda=1e-4", "lowlight.physical.ratio=[5, 50]"]
    main(["preset", "voc12-animals", "seed=7", "refine.threshold=0.4", *values])
    params = load_params(path)
    assert (params.data.kind, params.data.root, params.seed) == ("voc", "/x y/z", 7)
    assert (params.distill.weight, params.refine.threshold) == (1e-4, 0.4)
    assert params.lowlight.physical.ratio == (5, 50)
    assert path.read_bytes() != (ROOT / "params.yaml").read_bytes()
    main(["preset", "scenes"])
    assert path.read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_a_long_value_pushes_a_comment_aside_only_while_it_stands(project: Path) -> None:
    path = project / "params.yaml"
    for key, value in (("data.root", "x" * 60), ("lowlight.physical.ratio", "[10.5, 100000000]")):
        main(["preset", "scenes", f"{key}={value}"])
        line = next(x for x in path.read_text().splitlines() if f": {value}" in x)
        assert "  # " in line or f"{value} # " in line
        main(["preset", "scenes"])
        assert path.read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_comments_and_flow_lists_stay(project: Path) -> None:
    path = project / "params.yaml"
    before = path.read_text(encoding="utf-8")
    main(["preset", "voc12-animals", "cam.scales=[1.0, 0.5, 1.5]", "distill.pairs=[deep]"])
    after = path.read_text(encoding="utf-8")
    assert _comments(after) == _comments(before)
    assert len(_comments(after)) > 10
    assert "  classes: [cat, cow, dog, horse, person, sheep] " in after
    assert "  scales: [1.0, 0.5, 1.5]\n" in after
    assert "  pairs: [deep]\n" in after
    assert not [line for line in after.splitlines() if line.lstrip().startswith("- ")]
    assert len(after.splitlines()) == len(before.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "preset 'nope': no presets/nope.yaml; there are: "),
        (["../params"], "preset '../params': no "),
        (["scenes", "distill.lamda=1"], "distill.lamda: params.yaml has no such key"),
        (["scenes", "seed=x"], 'params.yaml: seed is "x": expected a valid integer'),
        (["scenes", "seed="], "params.yaml: seed is null: expected a valid integer"),
        (["scenes", "seed=2020-01-01"], 'params.yaml: seed is "2020-01-01": expected a valid int'),
        (["scenes", "seed"], "'seed': expected key=value, such as distill.lambda=0.5"),
        (["scenes", "=3"], "'=3': expected key=value, such as distill.lambda=0.5"),
        (["scenes", "seed=["], "'seed=[': '[' is not a YAML value"),
        (["scenes", "data=5"], "data: is a section in params.yaml"),
        (["scenes", "seed.x=5"], "seed: is a value in params.yaml"),
        (["scenes", "teacher.lr=.nan"], "params.yaml: teacher.lr is NaN: expected a finite"),
        (["scenes", "teacher.scale=[1, 0.5]"], "teacher.scale: expected [low, high]"),
        (["scenes", "model.weights=no.safetensors"], "no.safetensors is not a file"),
    ],
)
def test_what_does_not_fit_leaves_the_file_untouched(
    arguments: list[str], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "params.yaml"
    main(["preset", "scenes", "seed=5"])
    before = path.read_bytes()
    with pytest.raises(SystemExit) as caught:
        main(["preset", *arguments])
    assert isinstance(caught.value.code, str)  # Python prints it and exits with 1
    assert caught.value.code.startswith("dgkd: ")
    assert message in caught.value.code
    assert "\n" not in caught.value.code
    assert path.read_bytes() == before
    assert "Traceback" not in capsys.readouterr().err
    assert not list(project.glob(".*.part"))


def test_a_preset_with_an_unknown_key_or_no_mapping(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    (project / "presets" / "odd.yaml").write_text("model:\n  colour: red\n")
    with pytest.raises(InputError, match=r"model\.colour: params\.yaml has no such key"):
        apply_preset("odd", [], project)
    (project / "presets" / "odd.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match=r"odd\.yaml: expected sections such as"):
        apply_preset("odd", [], project)
    (project / "presets" / "odd.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(InputError, match=r"odd\.yaml: not readable as YAML \(line 2: found dup"):
        apply_preset("odd", [], project)
    assert (project / "params.yaml").read_bytes() == before


def test_a_base_is_laid_first(project: Path) -> None:
    (project / "presets" / "low.yaml").write_text("seed: 3\ndistill: {lambda: 0.5}\n")
    (project / "presets" / "high.yaml").write_text("base: low\ndistill: {lambda: 0.25}\n")
    apply_preset("high", [], project)
    params = load_params(project / "params.yaml")
    assert (params.seed, params.distill.weight) == (3, 0.25)
    (project / "presets" / "low.yaml").write_text("base: high\n")
    with pytest.raises(InputError, match=r"high\.yaml: base: high is based on itself"):
        apply_preset("high", [], project)
    (project / "presets" / "low.yaml").write_text("base: nowhere\n")
    with pytest.raises(InputError, match=r"preset 'nowhere': no "):
        apply_preset("high", [], project)


def test_the_papers_settings_differ_where_the_data_does(project: Path) -> None:
    """24 epochs of each training set, mask loss from the fifth on."""
    weights = project / "weights.safetensors"
    weights.write_bytes(b"weights")
    for name, pictures, scales in (
        ("voc12", 10582, (1.0, 0.5, 0.75)),
        ("lis", 1561, (1.0, 0.5)),
        ("voc2lis", 4110, (1.0, 0.5)),
    ):
        apply_preset(name, [f"model.weights={weights}"], project)
        params = load_params(project / "params.yaml")
        assert params.teacher.iterations == round(24 * pictures / 16)
        assert params.teacher.mask_warmup == round(5 * pictures / 16)
        assert tuple(params.evaluate.scales) == scales
        student = params.distill
        assert (student.iterations, student.mask_warmup, student.batch) == (40000, 8000, 6)
        assert (params.model.dgf2, params.model.exposure, student.init) == (
            *("paper", "none", "weights"),
        )
        recipe = Recipe.of(student)
        for t in (0, 1, 20000, 39999):
            expected = 1e-4 + (5e-3 - 1e-4) * (1 - t / 40000) ** 0.9
            assert recipe.lr * recipe.factor(t) == pytest.approx(expected)


@pytest.mark.parametrize("before", ["voc12", "lis", "voc12-animals"])
def test_what_was_there_before_a_whole_preset_does_not_matter(project: Path, before: str) -> None:
    values = ["model.weights=null"]
    apply_preset("voc12-animals", values, project)
    expected = (project / "params.yaml").read_bytes()
    apply_preset(before, [*values, "seed=4"], project)
    apply_preset("voc12-animals", values, project)
    assert _values(project / "params.yaml") == YAML(typ="safe", pure=True).load(expected)


def test_no_params_file(project: Path) -> None:
    (project / "params.yaml").unlink()
    with pytest.raises(InputError, match="no such file; run from the project's root folder"):
        apply_preset("scenes", [], project)


def test_a_weights_file_is_pinned(project: Path) -> None:
    (project / "w.safetensors").write_bytes(b"first")
    apply_preset("scenes", ["model.weights=w.safetensors"], project)
    model = load_params(project / "params.yaml").model
    assert model.weights_sha256 == hashlib.sha256(b"first").hexdigest()
    (project / "w.safetensors").write_bytes(b"second")
    apply_preset("scenes", ["model.weights=w.safetensors"], project)
    model = load_params(project / "params.yaml").model
    assert model.weights_sha256 == hashlib.sha256(b"second").hexdigest()
    apply_preset("scenes", ["model.weights=imagenet"], project)
    assert load_params(project / "params.yaml").model.weights_sha256 is None


def test_a_local_depth_folder_is_pinned(project: Path) -> None:
    folder = project / "dpt"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    apply_preset("scenes", ["depth.model=dpt"], project)
    first = load_params(project / "params.yaml").depth.revision
    assert first == sha256(folder)
    (folder / "config.json").write_text("{ }")
    apply_preset("scenes", ["depth.model=dpt"], project)
    assert load_params(project / "params.yaml").depth.revision not in (None, first)
    apply_preset("scenes", ["depth.model=scenes"], project)
    assert load_params(project / "params.yaml").depth.revision is None


def test_a_hub_revision_stays_but_a_folders_pin_does_not(project: Path) -> None:
    hub = ["depth.model=Intel/dpt-large", "depth.revision=abc123"]
    apply_preset("scenes", hub, project)
    assert load_params(project / "params.yaml").depth.revision == "abc123"
    apply_preset("scenes", [hub[0], f"depth.revision={'a' * 64}"], project)
    assert load_params(project / "params.yaml").depth.revision is None


def test_notes_name_folders_that_are_not_there(project: Path) -> None:
    notes = apply_preset("voc12-animals", ["data.root=../voc", "data.depth_root=/no/where"])
    assert notes == [
        f"data.root: {project.parent / 'voc'} is not there yet",
        "data.depth_root: /no/where is not there yet",
    ]
    (project.parent / "voc").mkdir()
    assert apply_preset("voc12-animals", ["data.root=../voc", "data.depth_root=../voc"]) == []
    data = load_params().data
    assert data.root == data.depth_root == str(project.parent / "voc")


def test_a_preset_after_dvc_has_written_the_file_itself(project: Path) -> None:
    """`dvc exp run -S` writes a list one item a line and null as nothing, around the comments."""
    path = Path("params.yaml")
    apply_preset("folder", ["data.classes=[cat, dog]", "lowlight.physical.ratio=[4, 16]"])
    before = path.read_text()
    with modify_yaml("params.yaml") as values:
        values["data"]["classes"] = ["cow", "dog", "cat"]
        values["lowlight"]["physical"]["ratio"] = [5, 50]
        values["cam"]["scales"] = [1.0, 0.5]
    assert "- cow" in path.read_text()
    apply_preset("folder", ["data.classes=[cat, dog]", "lowlight.physical.ratio=[4, 16]"])
    assert path.read_text() == before
    apply_preset("scenes", [])
    assert path.read_text() == (project / "presets" / "scenes.yaml").read_text()


def test_the_home_folder_is_written_out(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC, which reads data.root too, does not expand ~."""
    monkeypatch.setenv("HOME", str(project.parent))
    apply_preset("folder", ["data.root=~/photos", "evaluate.sets={night: ~/night}"])
    params = load_params()
    assert params.data.root == str(project.parent / "photos")
    assert params.evaluate.sets == {"night": str(project.parent / "night")}


def test_test_sets_are_named_by_the_user_and_replaced_as_a_whole(project: Path) -> None:
    (project.parent / "photos").mkdir()
    (project / "data" / "scenes").mkdir(parents=True)
    notes = apply_preset("scenes", ["evaluate.sets={night: ../photos, rain: rain.txt}"])
    assert notes == [f"evaluate.sets.rain: {project / 'rain.txt'} is not there yet"]
    photos = str(project.parent / "photos")
    assert load_params().evaluate.sets == {"night": photos, "rain": "rain.txt"}
    assert "# further test sets" in Path("params.yaml").read_text()
    apply_preset("scenes", ["evaluate.sets={dusk: ../photos}"])
    assert load_params().evaluate.sets == {"dusk": photos}
    apply_preset("scenes", [])
    assert load_params().evaluate.sets == {}


@pytest.mark.parametrize(
    ("key", "given", "kept"),
    [
        ("depth.revision", "10e5", "10e5"),
        ("data.train_list", "2007_000175", "2007_000175"),
        ("data.root", "2024-01-05", "2024-01-05"),
        ("data.root", "0123", "0123"),
        ("data.labels", "null", None),
        ("data.classes", "[1, 2.50, no, true]", ["1", "2.50", "no", "true"]),
        ("evaluate.sets", "{2024-01-05: 1e3, 7: x}", {"2024-01-05": "1e3", "7": "x"}),
        ("evaluate.sets.night", "2024", {"night": "2024"}),
    ],
)
def test_text_that_yaml_takes_for_a_number_stays_text(
    key: str, given: str, kept: object, project: Path
) -> None:
    apply_preset("scenes", ["depth.model=hub/id", "data.kind=folder", f"{key}={given}"])
    section, name, *_ = key.split(".")
    assert load_params().model_dump()[section][name] == kept
    assert (
        parse_yaml(Path("params.yaml").read_text(), "params.yaml")[section][name] == kept
    )  # DVC's


def test_the_shared_weights_are_pinned(project: Path) -> None:
    weights = ROOT.parent / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"
    if not weights.is_file():
        pytest.skip(f"{weights} is not here")
    apply_preset("voc12-animals", [f"model.weights={weights}"], project)
    assert load_params(project / "params.yaml").model.weights_sha256 == sha256(weights)
