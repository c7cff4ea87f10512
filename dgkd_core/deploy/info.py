"""`dgkd info`: what a model folder holds, how it is run and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dgkd_core
from dgkd_core.config.params import load_params
from dgkd_core.deploy.card import percent
from dgkd_core.deploy.folder import Run, digests, portable, read_run
from dgkd_core.deploy.model import Model, load
from dgkd_core.runtime.checks import shown

DEFAULTS = Path(dgkd_core.__file__).parent.parent / "presets/scenes.yaml"
_DEPTH = {
    "off": "not used",
    "dpt": "estimated by the DPT in the folder",
    "given": "measured maps, which you bring",
    "gradient": "a ramp from top to bottom (a control)",
}


def _leaves(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{above}{key}.")
        else:
            found[above + key] = value
    return found


def changed(run: Run) -> dict[str, tuple[Any, Any]] | None:
    """Parameters that differ from the defaults, with those; None where these are not at hand."""
    if not DEFAULTS.is_file():
        return None
    defaults = _leaves(portable(load_params(DEFAULTS)))
    return {
        key: (value, defaults.get(key))
        for key, value in _leaves(run.params).items()
        if value != defaults.get(key)
    }


def _parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _networks(model: Model) -> dict[str, int]:
    """Parameters of each network in the folder."""
    found = {"segmenter": _parameters(model.segmenter)}
    if model.has_student:
        found["student"] = _parameters(model.student[0])
    if model.dpt is not None:
        found["depth"] = _parameters(model.dpt[0])
    return found


def facts(folder: Path) -> dict[str, Any]:
    """All that `dgkd info` tells, as plain values.

    Raises:
        InputError: the folder is no model or is damaged.
    """
    model, run = load(folder, "cpu"), read_run(folder)
    config, settings, found = model.config, model.settings, digests(folder)
    differing = changed(run)
    return {
        "classes": list(model.classes),
        "backbone": config.backbone,
        "output_stride": config.output_stride,
        "width": config.width,
        "dgf2": config.dgf2,
        "exposure": config.exposure,
        "depth": settings.depth,
        "depth_exposure": settings.depth_exposure,
        "scales": list(settings.scales),
        "flip": settings.flip,
        "long_side": settings.long_side,
        "batch": settings.batch,
        "parameters": _networks(model),
        "half": run.half,
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "data": run.data,
        "darkness": run.darkness,
        "pictures": run.pictures,
        "scores": {
            kind: {"miou": score.miou, "iou": score.iou} for kind, score in run.scores.items()
        },
        "changed": None if differing is None else {k: v for k, (v, _) in differing.items()},
        "defaults": None if differing is None else {k: d for k, (_, d) in differing.items()},
        "params": run.params,
        "versions": run.versions,
        "sha256": found,
        "as_packaged": found == run.sha256,
    }


def _scores(known: Mapping[str, Any]) -> list[str]:
    kinds, names = list(known["scores"]), ["background", *known["classes"]]
    wide = max(map(len, names))
    lines = ["", "IoU %".ljust(wide) + "".join(f"{kind:>10}" for kind in kinds)]
    for name in names:
        values = (percent(known["scores"][kind]["iou"].get(name)) for kind in kinds)
        lines.append(name.ljust(wide) + "".join(f"{value:>10}" for value in values))
    means = (percent(known["scores"][kind]["miou"]) for kind in kinds)
    return [*lines, "mean".ljust(wide) + "".join(f"{value:>10}" for value in means)]


def _changed(known: Mapping[str, Any]) -> list[str]:
    if known["changed"] is None:
        return ["", "Its parameters are in run.json."]
    if not known["changed"]:
        return ["", "All parameters have their defaults."]
    lines = ["", "Parameters that differ from the defaults (in brackets):"]
    defaults = known["defaults"]
    return lines + [
        f"  {shown(key)[1:-1]}: {shown(value)} ({shown(defaults[key])})"
        for key, value in known["changed"].items()
    ]


def described(folder: Path, known: Mapping[str, Any]) -> str:
    """What `facts` found, to be read."""
    count = {name: f"{n:,} in the {name}" for name, n in known["parameters"].items()}
    if "depth" in count:
        count["depth"] = f"{known['parameters']['depth']:,} in the DPT"
    side = known["long_side"]
    runs = f"scales {', '.join(f'{scale:g}' for scale in known['scales'])}"
    runs += ", mirrored too" if known["flip"] else ""
    runs += f", long side at most {side}" if side else ""
    depth = _DEPTH[known["depth"]]
    if known["depth"] == "dpt":
        depth += f", exposure {known['depth_exposure']}"
    train, val = (known["pictures"].get(split, {}).get("pictures", 0) for split in ("train", "val"))
    rows = {
        "classes": f"{len(known['classes'])}: {', '.join(known['classes'])}",
        "network": f"{known['backbone']}, output stride {known['output_stride']}, "
        f"head {known['width']} wide, DGF2 {known['dgf2']}",
        "parameters": ", ".join(count.values()),
        "size": f"{known['bytes'] / 1e6:.1f} MB"
        + (", weights stored as float16 (half precision)" if known["half"] else ""),
        "exposure": known["exposure"],
        "depth": depth,
        "inference": f"{runs}, batches of {known['batch']}",
        "data": f"{known['data']}: {train} pictures to train on, {val} to score on",
        "darkness": known["darkness"],
        "versions": ", ".join(f"{name} {v}" for name, v in sorted(known["versions"].items())),
        "weights": "as they were packaged"
        if known["as_packaged"]
        else "NOT as they were packaged: a SHA-256 differs from run.json",
    }
    lines = [str(folder), *(f"  {name:<11} {text}" for name, text in rows.items())]
    lines += [f"    {digest[:16]}…  {name}" for name, digest in sorted(known["sha256"].items())]
    scored = any(score["miou"] is not None for score in known["scores"].values())
    lines += _scores(known) if scored else ["", "No val picture had a mask: not scored."]
    return "\n".join([*lines, *_changed(known)])
