"""report: one self-contained HTML page of the run."""

from pathlib import Path

import _start  # noqa: F401

from dgkd_core.config.params import load_params
from dgkd_core.config.schema import Params
from dgkd_core.pipeline.stage import run
from dgkd_core.report.page import render
from dgkd_core.report.run import read_run
from dgkd_core.runtime.files import write_text
from dgkd_core.runtime.state import State

PAGE = Path("reports/index.html")


def report(params: Params, state: State) -> None:
    page = render(read_run(params, load_params("presets/scenes.yaml")))
    write_text(PAGE, page)
    print(f"report: {PAGE}, {len(page.encode()) / 1000:.0f} kB, to be opened in a browser")


if __name__ == "__main__":
    run("report", report, shared=False)
