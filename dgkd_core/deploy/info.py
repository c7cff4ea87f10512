"""`dgkd info`: what a model folder holds, how it is run and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dgkd_core
from dgkd_core.config.leaves import leaves
from dgkd_core.config.params import load_params
from dgkd_core.deploy.card import percent
from dgkd_core.deploy.folder import digests, portable, read_run
from dgkd_core.deploy.model import Model, load
from dgkd_core.runtime.checks import shown
from dgkd_core.runtime.templates import fill

DEFAULTS = Path(dgkd_core.__file__).parent.parent / "presets/scenes.yaml"


def _defaults() -> dict[str, Any] | None:
    """The parameters that have defaults, by their dotted keys; None where these are not at hand."""
    if not DEFAULTS.is_file():
        return None
    return dict(leaves(portable(load_params(DEFAULTS))))


def _parameters(model: Model) -> dict[str, int]:
    """How many parameters each network in the folder has."""
    networks = {"segmenter": model.segmenter}
    if model.has_student:
        networks["student"] = model.student[0]
    if model.dpt is not None:
        networks["depth"] = model.dpt[0]
    return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}


def facts(folder: Path) -> dict[str, Any]:
    """All that `dgkd info` tells, as plain values.

    What model.json, inference.json and run.json say, and what the files themselves tell.

    Raises:
        InputError: the folder is no model or is damaged.
    """
    model, run = load(folder, "cpu"), read_run(folder)
    found, usual = digests(folder), _defaults()
    changed = defaults = None
    if usual is not None:
        changed = {key: value for key, value in leaves(run.params) if value != usual.get(key)}
        defaults = {key: usual.get(key) for key in changed}
    return {
        **asdict(model.config),
        **asdict(model.settings),
        **asdict(run),
        "parameters": _parameters(model),
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "changed": changed,
        "defaults": defaults,
        "sha256": found,
        "as_packaged": found == run.sha256,
    }


def _scores(known: Mapping[str, Any]) -> list[str]:
    """The lines of a table: IoU by class and kind of pictures."""
    scores, names = known["scores"], ["background", *known["classes"]]
    if all(score["miou"] is None for score in scores.values()):
        return ["No val picture had a mask: not scored."]
    rows = [("IoU %", list(scores))]
    rows += [(name, [percent(s["iou"].get(name)) for s in scores.values()]) for name in names]
    rows += [("mean", [percent(score["miou"]) for score in scores.values()])]
    wide = max(map(len, names))
    return [name.ljust(wide) + "".join(f"{v:>10}" for v in values) for name, values in rows]


def described(folder: Path, known: Mapping[str, Any]) -> str:
    """What `facts` found, to be read."""
    return fill(
        Path(__file__).with_name("info.txt.jinja"),
        {"shown": shown},
        folder=folder,
        known=known,
        scores=_scores(known),
        pictures=lambda split: known["pictures"].get(split, {}).get("pictures", 0),
    ).rstrip("\n")
