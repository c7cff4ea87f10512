"""`dgkd preset`: overlays on params.yaml that keep its comments and never leave it broken."""

from pathlib import Path

import pytest
from dvc.utils.serialize import modify_yaml, parse_yaml
from ruamel.yaml import YAML
from support import ROOT, one_line

from dgkd_core.config.params import load_params
from dgkd_core.config.presets import apply_preset, preset_names
from dgkd_core.runtime.files import sha256
from dgkd_core.training.optimizer import Recipe

pytestmark = pytest.mark.usefixtures("settings")
PARAMS = Path("params.yaml")
COMMITTED = (ROOT / "params.yaml").read_text(encoding="utf-8")


def _text() -> str:
    return PARAMS.read_text(encoding="utf-8")


def _comments(text: str) -> list[str]:
    return [line.partition("# ")[2] for line in text.splitlines() if "# " in line]


def test_every_preset_is_valid() -> None:
    one_line(lambda: apply_preset("voc12", []), "weights/wide_resnet38.safetensors is not a file")
    assert {"scenes", "voc12-animals"} <= set(preset_names())
    for name in preset_names():
        apply_preset(name, ["model.weights=null"])
        assert load_params().seed == 0


RELEASE = {
    "model": "backbone=wide_resnet38 initialisation=kaiming output_stride=8 width=256 dgf2=paper "
    "exposure=none global_context=true",
    "teacher": "norms=frozen aspp_norms=frozen sync_norms=false focal=0.01 projections=random "
    "optimizer=sgd lr=0.001 new_layers=10 bias_lr=2 no_decay=[biases] weight_decay=0.0005 batch=16 "
    "crop=321 mask_weight=1 ema=0",
    "distill": "norms=trained sync_norms=false optimizer=sgd lr=0.005 lr_min=0.0001 lr_power=0.9 "
    "new_layers=1 bias_lr=1 no_decay=[] weight_decay=0.0005 batch=6 crop=321 iterations=40000 "
    "mask_warmup=8000 keep=best validations=99 init=weights lambda_=1 denoiser=diffusion steps=5 "
    "noise_adapter=false autoencoder=null map_stride=1 ema=0 mask_weight=1",
    "evaluate": "flip=false",
}
"""What the authors' code does when it runs."""


@pytest.mark.parametrize(
    ("name", "pictures", "power", "scales"),
    [
        ("voc12", 10582, 1, [1, 0.5, 0.75]),
        ("lis", 1561, 10, [1, 0.5]),
        ("voc2lis", 4110, 10, [1, 0.5]),
    ],
)
def test_the_papers_presets_are_the_release_and_differ_where_the_data_does(
    name: str, pictures: int, power: float, scales: list[float]
) -> None:
    """24 epochs of each training set, mask loss from the fifth on."""
    apply_preset(name, ["model.weights=null"])
    params = load_params()
    for section, expected in RELEASE.items():
        for key, value in (pair.split("=") for pair in expected.split()):
            found = getattr(getattr(params, section), key)
            assert found == YAML(typ="safe").load(value), f"{section}.{key}: {found}"
    assert (params.evaluate.background_power, params.evaluate.scales) == (power, scales)
    assert params.teacher.iterations == round(24 * pictures / 16)
    assert params.teacher.mask_warmup == round(5 * pictures / 16)
    recipe = Recipe.of(params.distill)
    for t in (0, 1, 20000, 39999):
        expected = 1e-4 + (5e-3 - 1e-4) * (1 - t / 40000) ** 0.9
        assert recipe.lr * recipe.factor(t) == pytest.approx(expected)


def test_comments_and_lists_on_one_line_stay_and_scenes_brings_the_file_back() -> None:
    ratio = "lowlight.physical.ratio=[10.5, 100000000]"
    apply_preset("voc12-animals", ["model.weights=null", f"data.root={'x' * 60}", ratio])
    assert _comments(_text()) == _comments(COMMITTED)
    assert len(_text().splitlines()) == len(COMMITTED.splitlines())
    assert {
        "  root: " + "x" * 60,
        "    ratio: [10.5, 100000000]",
        "  classes: [cat, cow, dog, horse, person, sheep]",
    } <= {line.partition(" #")[0].rstrip() for line in _text().splitlines()}
    apply_preset("scenes", [])
    assert _text() == COMMITTED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "preset 'nope': no presets/nope.yaml; there are: "),
        (["scenes", "distill.lamda=1"], "distill.lamda: params.yaml has no such key"),
        (["scenes", "seed="], "params.yaml: seed is null: expected a valid integer"),
        (["scenes", "seed"], "'seed': expected key=value, such as distill.lambda=0.5"),
        (["scenes", f"seed={'[' * 9999}"], "is not a YAML value"),
        (["scenes", f"seed={'9' * 5000}"], "is not a YAML value"),
        (["scenes", "data.classes=[cat, ' dog']"], "' dog' begins or ends with a space"),
        (["scenes", "seed=["], "'seed=[': '[' is not a YAML value"),
        (["scenes", "data=5"], "data: is a section in params.yaml"),
        (["scenes", "teacher.model=nowhere"], "nowhere is not a folder"),
        (["odd-key"], "model.colour: params.yaml has no such key"),
        (["odd-twice"], "presets/odd-twice.yaml: not readable as YAML (line 2: found dup"),
        (["odd-self"], "presets/odd-self.yaml: base: odd-self is based on itself"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_the_file_untouched(
    arguments: list[str], message: str
) -> None:
    for name, text in {
        "key": "model:\n  colour: red\n",
        "twice": "a: 1\na: 2\n",
        "self": "base: odd-self\n",
    }.items():
        Path(f"presets/odd-{name}.yaml").write_text(text)
    assert message in one_line(lambda: apply_preset(arguments[0], arguments[1:]))
    assert _text() == COMMITTED
    assert not list(Path().glob(".*.part"))


def test_a_base_is_laid_first_and_the_rest_of_the_file_stays() -> None:
    Path("presets/low.yaml").write_text("seed: 3\ndistill: {lambda: 0.5}\n")
    Path("presets/high.yaml").write_text("base: low\ndistill: {lambda: 0.25}\n")
    apply_preset("scenes", ["cam.flip=false"])
    apply_preset("high", [])
    params = load_params()
    assert (params.seed, params.distill.lambda_, params.cam.flip) == (3, 0.25, False)


def test_what_was_there_before_a_whole_preset_does_not_matter() -> None:
    """Not even what `dvc exp run -S` wrote: a list one item a line, around the comments."""
    apply_preset("lis", ["model.weights=null", "seed=4"])
    with modify_yaml("params.yaml") as given:
        given["data"]["classes"] = ["cow", "dog", "cat"]
        given["lowlight"]["physical"]["ratio"] = [5, 50]
    assert "- cow" in _text()
    apply_preset("mild", [])
    assert load_params().lowlight.physical.ratio == (4, 16)
    assert _comments(_text()) == _comments(COMMITTED)
    for text in (COMMITTED, COMMITTED.replace("  guide: normal", "# "), "seed: [", None):
        PARAMS.unlink() if text is None else PARAMS.write_text(text)
        apply_preset("scenes", [])
        assert _text() == COMMITTED


def test_files_and_folders_are_pinned_by_their_content() -> None:
    files = weights, _, _ = [Path(n) for n in ("w.safetensors", "dpt/a.json", "teacher/a.json")]
    values = ["model.weights=w.safetensors", "depth.model=dpt", "teacher.model=teacher"]
    for content in ("{}", "{ }"):
        for file in files:
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
        apply_preset("scenes", values)
        params = load_params()
        assert params.model.weights_sha256 == sha256(weights)
        assert params.depth.revision == sha256(Path("dpt"))
        assert params.teacher.model_sha256 == sha256(Path("teacher"))
    hub = "depth.model=Intel/dpt-large"
    for values, revision in (  # a hub's revision stays, a folder's pin does not
        ([hub, "depth.revision=abc123"], "abc123"),
        ([hub, f"depth.revision={'a' * 64}"], None),
        (["depth.model=scenes", "model.weights=imagenet"], None),
    ):
        apply_preset("scenes", values)
        params = load_params()
        assert (params.depth.revision, params.model.weights_sha256) == (revision, None)


def test_places_outside_of_the_project_become_absolute_and_missing_ones_are_noted(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC, which reads them too, does not expand ~; the queue runs elsewhere."""
    monkeypatch.setenv("HOME", str(settings.parent))
    photos = settings.parent / "photos"
    values = ["data.root=../photos", "data.depth_root=/no/where", "evaluate.sets={night: ~/photos}"]
    notes = apply_preset("folder", values)
    assert notes == [
        f"data.root: {photos} is not there yet",
        "data.depth_root: /no/where is not there yet",
        f"evaluate.sets.night: {photos} is not there yet",
    ]
    photos.mkdir()
    assert apply_preset("folder", [values[0], values[2], "data.depth_root=~/photos"]) == []
    params = load_params()
    assert params.data.root == params.data.depth_root == str(photos)
    assert params.evaluate.sets == {"night": str(photos)}


def test_text_that_yaml_takes_for_a_number_stays_text() -> None:
    kept = {
        "depth": {"revision": ("10e5", "10e5")},
        "data": {
            "train_list": ("2007_000175", "2007_000175"),
            "root": ("2024-01-05", "2024-01-05"),
            "sbd_root": ("my night: #2", "my night: #2"),
            "labels": ("null", None),
            "classes": ("[1, 2.50, no, true]", ["1", "2.50", "no", "true"]),
        },
        "evaluate": {"sets": ("{2024-01-05: 1e3, 7: x}", {"2024-01-05": "1e3", "7": "x"})},
    }
    rows = [(s, key, *row) for s, keys in kept.items() for key, row in keys.items()]
    given = [f"{section}.{key}={text}" for section, key, text, _ in rows]
    apply_preset("scenes", ["depth.model=hub/id", "data.kind=folder", *given])
    for found in (load_params().model_dump(), parse_yaml(_text(), "params.yaml")):  # and DVC's
        assert [found[section][key] for section, key, *_ in rows] == [row[-1] for row in rows]
    apply_preset("mild", ["evaluate.sets.night=2024"])
    assert load_params().evaluate.sets == {"night": "2024"}, "test sets are replaced as a whole"
