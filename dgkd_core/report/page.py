"""The page of a run: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from dgkd_core.data.pictures import voc_palette
from dgkd_core.report.charts import Chart, Series, line_chart, number
from dgkd_core.report.run import EXAMPLES, Run, Setting
from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.templates import fill

WEBP_SIDE = 16383  # pixels, at most
QUALITY = 88  # of WebP: a tenth of PNG's bytes on noise, and class colours keep clean edges
NETWORKS = ("teacher", "student", "segmenter")
KINDS = {"normal": "normal", "dark": "dark", "dark_exposed": "dark, brightened"}
TITLES = {
    "teacher": "Teacher, on normal pictures",
    "distill": "Student, on dark pictures",
    "segment": "Segmenter, on dark pictures",
    "depth_model": "Depth network",
    "depth_adapt": "Depth network, adapted to the dark",
}
CURVES = {  # in the order in which they are shown
    "miou": "mIoU on val, %",
    "cls": "loss of the classes",
    "mask": "loss of the masks",
    "kd": "distance from the teacher",
    "diff": "error of the denoisers",
    "ce": "cross-entropy with the pseudo labels",
    "depth": "error of the depth map",
    "grad": "gradient's norm on the encoder",
    "cos": "its cosine with that of the classes",
    "gap": "distance more from another picture's teacher",
    "found": "labelled classes that are found, share",
    "lr": "learning rate",
}


@dataclass(frozen=True)
class Picture:
    """An image as it stands in the page, and its size in pixels."""

    source: str
    width: int
    height: int


def picture(path: Path) -> Picture:
    """A picture's file as WebP in a data URI, shrunk where it is larger than WebP allows.

    Raises:
        InputError: it is missing or no picture.
    """
    buffer = io.BytesIO()
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        image.thumbnail((WEBP_SIDE, WEBP_SIDE))
        image.save(buffer, "WEBP", quality=QUALITY, method=6)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable picture ({reason(error)})") from error
    return Picture(
        f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", *image.size
    )


def colours(classes: Sequence[str]) -> dict[str, str]:
    """The background and the classes in VOC's colours, as in the pictures."""
    palette = voc_palette()
    return {
        name: "#{:02x}{:02x}{:02x}".format(*palette[3 * i : 3 * i + 3])
        for i, name in enumerate(["background", *classes])
    }


def shown(value: Any) -> str:
    """A parameter's value as it may be written in params.yaml."""
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, float):
        return f"{value:.12g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def percent(value: float | str | None, digits: int = 1) -> str:
    """A number of a metrics file or table; a dash where there is none."""
    return "–" if value in (None, "") else f"{float(value):.{digits}f}"


def command(settings: tuple[Setting, ...]) -> str:
    """The shell command that turns the defaults into these settings."""
    changed = (f"{each.key}={shown(each.value)}" for each in settings if each.changed)
    return " \\\n    ".join(["dgkd preset scenes", *map(shlex.quote, changed)])


def iou_by_class(run: Run) -> dict[str, dict[str, str]]:
    """IoU as text by class and by ``network, pictures``, both in the order of the table."""
    found: dict[str, dict[str, str]] = {}
    for network, kind, name, iou in run.iou.itertuples(index=False):
        found.setdefault(name, {})[f"{network}, {kind}"] = iou
    return found


def confusion(run: Run) -> dict[str, dict[str, float]]:
    """Percent of the pixels of each true class by predicted class."""
    found: dict[str, dict[str, float]] = {}
    for truth, predicted, share in run.confusion.itertuples(index=False):
        found.setdefault(truth, {})[predicted] = float(share)
    return found


def rows(series: Sequence[Series]) -> list[tuple[str, list[str]]]:
    """A table of several series: x, and the y of each or nothing."""
    values = [dict(zip(each.x, each.y, strict=True)) for each in series]
    return [
        (number(x), [f"{each[x]:.4g}" if x in each else "" for each in values])
        for x in sorted(set().union(*values))
    ]


def sweep_chart(run: Run) -> Chart | None:
    """mIoU by background threshold, with the threshold that the pseudo labels were cut at."""
    threshold = float(run.metrics["refine"]["val"]["threshold"])
    return line_chart(
        "mIoU of the class maps on val, %",
        run.sweeps,
        (0, 1),
        (threshold, f"cut at {threshold:g}"),
    )


def curve_charts(curves: list[Series]) -> list[Chart]:
    """A chart for the curves whose names begin alike, as kd_map and kd_deep, all by one x axis."""
    groups: dict[str, list[Series]] = {}
    for each in curves:
        groups.setdefault(each.name.split("_")[0], []).append(each)
    last = max(each.x[-1] for each in curves)
    names = [*(name for name in CURVES if name in groups), *(n for n in groups if n not in CURVES)]
    charts = (line_chart(CURVES.get(name, name), groups[name], (0, last)) for name in names)
    return [chart for chart in charts if chart]


def render(run: Run) -> str:
    """The page. Scripts, requests and links to other files are not in it."""
    evaluated = run.metrics["evaluate"]
    pictures = {name: picture(path) for name, path in run.pictures.items()}
    return fill(
        Path(__file__).with_name("page.html"),
        {"percent": percent, "shown": shown},
        autoescape=True,
        rows=rows,
        run=run,
        setting=run.setting,
        metrics=run.metrics,
        evaluated=evaluated,
        scored=evaluated["segmenter"]["dark"] is not None,
        kinds={k: name for k, name in KINDS.items() if any(k in evaluated[n] for n in NETWORKS)},
        networks=NETWORKS,
        colours=colours(run.classes),
        iou=iou_by_class(run),
        confusion=confusion(run),
        sweep=sweep_chart(run),
        curves={
            stage: (title, run.curves[stage], curve_charts(run.curves[stage]))
            for stage, title in TITLES.items()
            if run.curves[stage]
        },
        examples={name: pictures[name] for name in EXAMPLES if name in pictures},
        pictures=pictures,
        changed=[setting for setting in run.settings if setting.changed],
        sections=[
            (name, list(settings))
            for name, settings in groupby(run.settings, lambda each: each.key.split(".")[0])
        ],
        command=command(run.settings),
    )
