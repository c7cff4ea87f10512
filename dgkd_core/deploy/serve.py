"""`dgkd serve`: a model folder behind a page, on this machine, without a word to any other."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from dgkd_core.deploy.model import load
from dgkd_core.runtime.errors import InputError, reason
from dgkd_core.runtime.signals import asked, listening

LARGEST_UPLOAD = "256mb"
SESSIONS = 16  # whose class maps are kept
# read by gradio and what it is made of when they are imported: no telemetry, no look-ups
OFFLINE = {
    **{"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
    # gradio asks its own page whether it is there: that must not go through a proxy
    **{"NO_PROXY": "*", "no_proxy": "*"},
}
# not needed here, and a wrong value would end the import: certificates for connections that are
# never made, how many ports are tried
NOT_NEEDED = ("SSL_CERT_FILE", "SSL_CERT_DIR", "GRADIO_NUM_PORTS")
ROOT_PATH = "GRADIO_ROOT_PATH"


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on, before anything is loaded.

    Raises:
        InputError: it is in use or forbidden, or the host is not of this machine.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"--port is {port}, expected 1 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind((host, port))
    except (OSError, UnicodeError) as error:  # a host's name that no name can be
        said = getattr(error, "strerror", None) or reason(error)
        raise InputError(
            f"--port {port} on --host {host}: cannot be listened on ({said}), expected a free port "
            f"of this machine"
        ) from error


def serve(folder: str | Path, host: str, port: int, device: str | None) -> None:
    """Show the page until Ctrl-C.

    Raises:
        InputError: the model, the device, the port or GRADIO_ROOT_PATH cannot be used, or gradio is
            missing.
    """
    if find_spec("gradio") is None:
        raise InputError("gradio is not installed: pip install 'dgkd[serve]'")
    check_port(host, port)
    root = os.environ.get(ROOT_PATH, "/")
    if not root.startswith(("/", "http://", "https://")):
        raise InputError(f"{ROOT_PATH} is {root!r}, expected a path that begins with /")
    model = load(folder, device)
    if model.settings.depth == "given":
        raise InputError(
            f"{folder}: a model of measured depth maps, which the page cannot take, expected one "
            f"that estimates depth or fuses none"
        )
    os.environ.update(OFFLINE)
    for name in NOT_NEEDED:
        os.environ.pop(name, None)
    with listening(), tempfile.TemporaryDirectory(prefix="dgkd-serve.") as kept:
        os.environ["GRADIO_TEMP_DIR"] = kept  # uploads are gone when the server is
        from dgkd_core.deploy.page import CSS, EXAMPLES, THEME, page

        blocks = page(model, Path(kept))
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
            max_file_size=LARGEST_UPLOAD,
            state_session_capacity=SESSIONS,
            allowed_paths=[str(model.folder / EXAMPLES)],
            theme=THEME,
            css=CSS,
        )
        shown = f"[{host}]" if ":" in host else host
        print(f"dgkd: http://{shown}:{port} shows {folder} (Ctrl-C ends it)", flush=True)
        while asked() is None:
            time.sleep(0.2)
        blocks.close(verbose=False)
