"""What every stage script does around its own work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from dgkd_core.errors import InputError
from dgkd_core.params import load_params
from dgkd_core.sections import Params

ARTIFACTS = "artifacts"


def run(stage: str, body: Callable[[Params], None]) -> None:
    """Run a stage on params.yaml of the current folder.

    Unusable input and a failing disk end with one line and exit status 1.
    """
    started = time.monotonic()
    try:
        params = load_params()
        body(params)
    except InputError as error:
        sys.exit("\n".join(f"{stage}: {line}" for line in str(error).splitlines()))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        sys.exit(f"{stage}: {name}{error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(f"{stage}: interrupted")
    print(f"{stage}: done in {time.monotonic() - started:.0f} s", flush=True)
