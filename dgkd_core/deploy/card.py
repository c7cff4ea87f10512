"""The model card: README.md of a model folder, with the head that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Sequence

from dgkd_core.config.schema import Params
from dgkd_core.deploy.folder import DIGITS, Run, Settings
from dgkd_core.models.registry import ModelConfig

PAPER = """@article{wang2025dgkd,
  title   = {Diffusion-Guided Knowledge Distillation for Weakly-Supervised Low-Light Semantic Segmentation},
  author  = {Wang, Chunyan and Zhang, Dong and Tang, Jinhui},
  journal = {arXiv preprint arXiv:2507.07578},
  year    = {2025}
}"""  # noqa: E501

_DATA = {
    "scenes": "scenes drawn by dgkd",
    "voc": "PASCAL VOC 2012, darkened",
    "lis": "LIS, real pairs of a normal and a dark photograph",
    "voc2lis": "PASCAL VOC 2012, darkened; scored on LIS",
    "folder": "photographs of its maker's own",
}
_DEPTH = {
    "off": "The network fuses no depth.",
    "dpt": "A depth map is estimated from the dark photograph by the DPT in `depth/` and fused.",
    "given": "It fuses **measured depth maps**, which you must bring with every photograph.",
    "gradient": "It fuses a depth map that falls evenly from top to bottom of every picture: a "
    "control, which knows nothing of the photograph.",
}
_HALF = "stored as float16, computed with as float32; the scores are of those before rounding"
_COMPUTED_NIGHT = ("scenes", "voc", "voc2lis")  # kinds of data whose training pictures are darkened
_EXPOSURE = {
    "none": "It sees the dark photograph as it is.",
    "gain": "It brightens the dark photograph by a gain first.",
    "gamma": "It brightens the dark photograph by a gamma curve first.",
    "curve": "It brightens the dark photograph by a gain and a learned tone curve first.",
}


def data_of(params: Params) -> str:
    """What a model was trained on, in a few words."""
    return _DATA[params.data.kind]


def darkness_of(params: Params) -> str:
    """How dark its training pictures were, in a few words."""
    if params.data.kind == "lis":
        return "real low light"
    real = "real where there are dark photographs, else " if params.data.kind == "folder" else ""
    if params.lowlight.kind == "physical":
        low, high = params.lowlight.physical.ratio
        return f"{real}exposure divided by {low:g} to {high:g} in linear light, with sensor noise"
    return f"{real}a simple curve, beta · (alpha · x)^gamma, with Gaussian noise"


def percent(value: float | None) -> str:
    """A score as it is shown."""
    return "–" if value is None else f"{value:.{DIGITS}f}"


def _head(run: Run, name: str) -> list[str]:
    lines = [
        *("---", "license: apache-2.0", "library_name: dgkd", "pipeline_tag: image-segmentation"),
        *("tags:", "- semantic-segmentation", "- weakly-supervised", "- low-light", "- dgkd"),
        *("metrics:", "- mean_iou"),
    ]
    known = {kind: score for kind, score in run.scores.items() if score.miou is not None}
    if known:
        lines += ["model-index:", f"- name: {name}", "  results:"]
    for kind, score in known.items():
        lines += [
            *("  - task:", "      type: image-segmentation", "    dataset:"),
            f"      type: {run.params['data']['kind']}",
            f'      name: "{run.data} ({kind} val pictures)"',
            *("    metrics:", "    - type: mean_iou", f"      value: {score.miou:.{DIGITS}f}"),
        ]
    return [*lines, "---"]


def _table(classes: Sequence[str], run: Run) -> list[str]:
    kinds = list(run.scores)
    rows = ["| IoU % | " + " | ".join(f"{kind} val" for kind in kinds) + " |"]
    rows += ["|---" * (1 + len(kinds)) + "|"]
    for name in ("background", *classes):
        values = (percent(run.scores[kind].iou.get(name)) for kind in kinds)
        rows.append(f"| {_cell(name)} | " + " | ".join(values) + " |")
    means = (f"**{percent(run.scores[kind].miou)}**" for kind in kinds)
    return [*rows, "| **mean** | " + " | ".join(means) + " |"]


def _cell(name: str) -> str:
    """A class's name, which may hold anything, as text in a table."""
    return "".join(f"\\{c}" if c in "|\\`*_[]<>#" else c for c in name)


def card(config: ModelConfig, settings: Settings, run: Run, notes: Sequence[str] = ()) -> str:
    """The whole card, Markdown with a YAML head.

    Args:
        notes: lines of its maker's, as in package.notes.
    """
    params, train = run.params, run.pictures.get("train", {})
    scored = [kind for kind, score in run.scores.items() if score.miou is not None]
    lines = [
        *_head(run, f"dgkd-{params['data']['kind']}"),
        "",
        f"# Semantic segmentation in the dark: {len(config.classes)} classes",
        "",
        "A dark photograph in, a mask of classes out. The segmenter has learned from labels that "
        "only say *what is in a picture*: no mask of a training picture was used (DGKD-WLSS, "
        "[arXiv 2507.07578](https://arxiv.org/abs/2507.07578), by the pipeline `dgkd`).",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(map(_cell, config.classes))} |",
        f"| backbone | {_cell(config.backbone)}, output stride {config.output_stride} |",
        f"| trained on | {run.data}: {train.get('pictures', 0)} pictures |",
        f"| darkness | {run.darkness} |",
        f"| distillation | weight {params['distill']['lambda']:g}, "
        f"denoiser {params['distill']['denoiser']} |",
        f"| depth fusion (DGF2) | {config.dgf2} |",
        f"| seed | {params['seed']} |",
        *([f"| weights | {_HALF} |"] if run.half else []),
        "",
        f"{_EXPOSURE[config.exposure]} {_DEPTH[settings.depth]}",
        "",
        "## Scores",
        "",
    ]
    if scored:
        lines += [
            f"Of {run.pictures.get('val', {}).get('pictures', 0)} val pictures, which were not "
            "trained on; their masks chose the background threshold of the pseudo labels, if "
            "`refine.threshold` is `auto`.",
            "",
            *_table(config.classes, run),
        ]
    else:
        lines += ["No val picture has a mask, so nothing is known about its quality."]
    limits = [
        "Everything that is none of the classes above is background.",
        "It has learned the darkness and the kind of pictures named above: expect less of others.",
    ]
    if params["data"]["kind"] in _COMPUTED_NIGHT:
        limits.append(
            "Its darkness was computed from pictures in normal light: the noise and the colours of "
            "a real camera at night can look different."
        )
    limits.append("Small objects, and parts of objects, are often missed.")
    if params["data"]["kind"] == "scenes":
        limits.append("Drawn scenes are no photographs: this model shows that the chain works.")
    limits.append(
        "The probability of a class says how sure its surest pixel is; it is not calibrated."
    )
    limits.append(
        "The licence above is that of `dgkd`; pictures and pretrained weights have their own."
    )
    limits.append("It comes without any guarantee. Do not use it to decide about people.")
    if notes:
        lines += ["", "## Data and first weights", "", *(f"- {note}" for note in notes)]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in limits)]
    call = "model.predict([photo], depths=[depth])[0].mask" if settings.depth == "given" else ""
    flag = " --depth DEPTH_MAPS" if settings.depth == "given" else ""
    lines += [
        *("", "## Use", "", "In this folder:", ""),
        f"    dgkd predict night.jpg --model .{flag} --out masks",
        "",
        "or in Python:",
        "",
        "    import dgkd_core",
        "    from PIL import Image",
        "",
        '    model = dgkd_core.load(".")',
        '    photo = Image.open("night.jpg")',
        f"    mask = {call or 'model(photo)  # a picture of class ids in the palette of VOC'}",
        "",
        "`inference.json` says how it is run, `run.json` all parameters, versions and SHA-256s.",
        *("", "## Cite", "", "```bibtex", PAPER, "```", ""),
    ]
    return "\n".join(lines)
