"""First import of every stage: this tree's own dgkd_core, or one line that says what is missing."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

_NEEDED = (
    *("torch", "torchvision", "timm", "transformers", "diffusers", "safetensors", "pydantic"),
    *("ruamel.yaml", "PIL", "numpy", "scipy", "defusedxml", "pycocotools", "tqdm", "jinja2"),
    "dvclive",
)


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# NumPy's matrices are small here: threads of its BLAS would only get in the way of torch's.
# Threads that wait for each other give up the core soon: on two cores a second experiment beside
# this one made a training step 8 times as slow without the limit and 2.5 times with it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

_missing = [name for name in _NEEDED if not _installed(name)]
if sys.version_info < (3, 11) or _missing:
    _why = f"lacks {', '.join(_missing)}" if _missing else "is older than 3.11"
    sys.exit(
        f"{Path(sys.argv[0]).stem}: this Python ({sys.executable}) {_why}; "
        "run `make setup` once, then `source .venv/bin/activate`"
    )
