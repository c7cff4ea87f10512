"""The page of `dgkd serve`: a dark photograph in, what the networks see in it out."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from dgkd_core.data.exposure import expose_8bit
from dgkd_core.data.pictures import encode_mask, open_picture
from dgkd_core.deploy.model import Model
from dgkd_core.deploy.overlay import blend_mask, found_in
from dgkd_core.evaluation.figures import colour_heat, colour_mask
from dgkd_core.runtime.checks import PICTURE_SUFFIXES
from dgkd_core.runtime.errors import InputError, enough_memory
from dgkd_core.runtime.files import atomic_file

EXAMPLES = "examples"  # of a model folder: dark photographs to click on
STRONGEST = "strongest class"
CAM = "Class map (CAM)"
KEPT = 3600  # seconds for which the page's files are kept
WAITING = 16  # photographs that wait for the one that is worked on; more are refused
# fonts of the visitor's system: others would be fetched
THEME = gr.themes.Default(
    primary_hue="amber",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = """
.found table { width: 100%; border-collapse: collapse; border: none; margin: 0; }
.found caption { text-align: left; font-size: .85em; opacity: .75; }
.found th, .found td { padding: .35em .6em; text-align: left; border: none; }
.found tr + tr { border-top: 1px solid #8885; }
.found td:last-child, .found th:last-child { text-align: right;
  font-variant-numeric: tabular-nums; }
.found .colour { display: inline-block; width: 1em; height: 1em; margin-right: .6em;
  vertical-align: -.15em; border: 1px solid currentColor; border-radius: .2em; }
.problem { padding: .7em 1em; border-left: .3em solid #c2410c; background: #c2410c1a; }
"""


def _as_it_came(upload: Any) -> str | None:
    return None if upload is None else str(upload.path)


def areas(mask: np.ndarray, classes: Sequence[str]) -> str:
    """The legend as an HTML table: colour, class and share of the picture, the largest first."""
    rows = []
    for i, name, share in found_in(mask, classes):
        colour = "#" + bytes(colour_mask(np.array(i, np.uint8))).hex()
        swatch = f'<span class="colour" style="background:{colour}" aria-hidden="true"></span>'
        rows.append(f"<tr><td>{swatch}{html.escape(name)}</td><td>{100 * share:.1f} %</td></tr>")
    head = '<tr><th scope="col">class</th><th scope="col">area</th></tr>'
    caption = "<caption>Share of the picture</caption>"
    return f'<div class="found"><table>{caption}{head}{"".join(rows)}</table></div>'


def _problem(message: str) -> Any:
    text = f'<p class="problem" role="alert">{html.escape(message)}</p>' if message else ""
    return gr.HTML(text, visible=bool(message))


def _cam(maps: np.ndarray | None, choice: str, classes: Sequence[str]) -> Any:
    """Of maps (C, H, W) uint8 the one of the chosen class, or the strongest, in colours."""
    if maps is None:
        return gr.Image(None, label=CAM)
    index = int(maps.mean((1, 2)).argmax()) if choice == STRONGEST else classes.index(choice)
    return gr.Image(colour_heat(maps[index] / 255), label=f"{CAM}: {classes[index]}")


def _outputs(model: Model, folder: Path, path: str | None, choice: str) -> list[Any]:
    """The page's outputs, in their order: problem, four pictures, table, download and maps.

    Args:
        folder: takes the mask that is handed out.
        path: the uploaded file; None: nothing is shown.
        choice: the class whose map is shown, or the strongest.
    """
    problem, cam = "", _cam(None, choice, model.classes)
    try:
        if path is not None:
            with enough_memory(", expected a smaller photograph"):
                return _seen(model, folder, Path(path), choice)
    except InputError as error:
        problem = str(error)
        if "expected" not in problem:
            problem += ", expected a photograph such as JPEG or PNG"
    no_download = gr.DownloadButton(interactive=False)
    return [_problem(problem), None, None, None, cam, "", no_download, None]


def _seen(model: Model, folder: Path, path: Path, choice: str) -> list[Any]:
    """`_outputs` of a file, which raises InputError where it is no picture that can be used."""
    photo = model.prepare(open_picture(path.read_bytes(), path.name), path.name)
    (seen,) = model.predict_prepared([photo])
    maps = None  # (C, H, W) uint8, the student's class maps, at the size that the networks see
    if model.has_student:
        maps = np.rint(model.class_maps(Image.fromarray(photo.rgb)) * 255).astype(np.uint8)
    kind = model.config.exposure
    bright = expose_8bit(photo.rgb, "gain" if kind == "none" else kind)
    mask = seen.enlarged(photo.size).mask
    target = Path(tempfile.mkdtemp(dir=folder), f"{path.stem}.mask.png")
    with atomic_file(target) as part:
        part.write_bytes(encode_mask(mask))
    return [
        _problem(""),
        blend_mask(bright, seen.mask),
        bright,
        None if seen.depth is None else colour_heat(seen.depth),
        _cam(maps, choice, model.classes),
        areas(mask, model.classes),
        gr.DownloadButton(value=str(target), interactive=True),
        maps,
    ]


def _picture(label: str, **more: Any) -> gr.Image:
    buttons = ["download", "fullscreen"]
    settings = {"interactive": False, "format": "png", "buttons": buttons, "alt_text": label}
    return gr.Image(label=label, **{**settings, **more})


def page(model: Model, folder: Path) -> gr.Blocks:
    """The page, to be launched.

    Args:
        folder: takes the masks that are handed out.
    """
    names = ", ".join(model.classes)
    found = sorted((model.folder / EXAMPLES).glob("*"))
    examples = [str(path) for path in found if path.suffix.lower() in PICTURE_SUFFIXES]
    with gr.Blocks(
        analytics_enabled=False, title="Segmentation in the dark", delete_cache=(KEPT, KEPT)
    ) as blocks:
        gr.Markdown(
            f"# Segmentation in the dark\nDrop a dark photograph: what is where in it? "
            f"This model knows {len(model.classes)} classes: {names}."
        )
        with gr.Row():
            with gr.Column():
                photo = gr.Image(
                    label="Dark photograph",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    elem_id="photo",
                    height=320,
                )
                # what is wrong with a file is ours to say; of a class of our own gradio would want
                # files for the browser, and write a .pyi beside this one
                photo.preprocess = _as_it_came  # type: ignore[method-assign,assignment]
                problem = gr.HTML(elem_id="problem", visible=False)
                if examples:
                    gr.Examples(examples, photo, label="Examples", cache_examples=False)
            with gr.Column():
                overlay = _picture("Segmentation", elem_id="mask")
                table = gr.HTML(elem_id="areas")
                download = gr.DownloadButton(
                    "Download the mask (PNG)", interactive=False, elem_id="download"
                )
        with gr.Row():
            bright = _picture("Brightened photograph", elem_id="bright")
            depth = _picture(
                "Depth, bright = near", elem_id="depth", visible=model.settings.depth != "off"
            )
            with gr.Column(visible=model.has_student):
                cam = _picture(CAM, elem_id="cam")
                choice = gr.Dropdown(
                    [STRONGEST, *model.classes], value=STRONGEST, label="Class of the map"
                )
        maps = gr.State()
        photo.change(
            lambda path, name: _outputs(model, folder, path, name),
            [photo, choice],
            [problem, overlay, bright, depth, cam, table, download, maps],
            api_visibility="private",
            trigger_mode="always_last",
        )
        choice.change(
            lambda found, name: _cam(found, name, model.classes),
            [maps, choice],
            cam,
            api_visibility="private",
        )
    return blocks.queue(default_concurrency_limit=1, max_size=WAITING)
