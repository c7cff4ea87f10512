"""A `python` for DVC's stages that forks instead of importing everything anew.

The folder of `served` goes first in PATH. The `python` in it hands its words, folder, environment
and streams to a server, a process that has all imported, which runs the script in a child.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

PRELOADED = ("diffusers", "dvclive", "timm", "transformers", "dvc.cli", "dvc.repo")
CLIENT = """#!{python} -SE
import json, os, socket, sys
if not (len(sys.argv) > 1 and sys.argv[1].startswith("stages/")):
    os.execv({python!r}, sys.argv)
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
told = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [told], [0, 1, 2])
sys.exit(int(server.recv(16) or 70))
"""


def _run(connection: socket.socket) -> None:
    told, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    sys.argv, folder, environment = json.loads(told)
    for i, stream in enumerate(streams):
        os.dup2(stream, i)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(i, "rw"[i > 0], closefd=False) for i in range(3))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    status: object = 70
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(str(status or 0).encode())


def _serve(listening: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                _run(connection)
            finally:
                os._exit(0)
        connection.close()


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """Within the block the environment's PATH leads to such a `python`, in ``folder``."""
    for name in PRELOADED:
        importlib.import_module(name)
    address, client = str(folder / "s"), folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen()
        server = os.fork()
        if server == 0:
            gc.freeze()  # as in forked.spawn
            try:
                _serve(listening)
            finally:
                os._exit(1)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    try:
        yield
    finally:
        os.environ["PATH"] = os.environ["PATH"].removeprefix(f"{folder}{os.pathsep}")
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
