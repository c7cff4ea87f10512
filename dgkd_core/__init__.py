"""dgkd: weakly-supervised semantic segmentation in the dark (DGKD-WLSS) as a DVC pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgkd_core.deploy.version import __version__ as __version__

if TYPE_CHECKING:
    from pathlib import Path

    from dgkd_core.deploy.model import Model


def load(folder: str | Path | None = None, device: str | None = None) -> Model:
    """The model that ships with dgkd, or the one in a folder that the stage ``package`` wrote.

    >>> model = dgkd_core.load()  # or dgkd_core.load("artifacts/model") # doctest: +SKIP
    >>> model(Image.open("night.jpg")).save("mask.png")  # doctest: +SKIP

    Args:
        device: such as ``cpu`` or ``cuda:1``; else DGKD_DEVICE, else a GPU where there is one.

    Raises:
        InputError: the folder or the device cannot be used.
    """
    from dgkd_core.deploy.model import load as load_model  # torch: not for `import dgkd_core`
    from dgkd_core.deploy.shipped import shipped

    return load_model(shipped() if folder is None else folder, device)
