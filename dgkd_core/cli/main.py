"""The ``dgkd`` command.

Each command is a function ``_name``. Its docstring is what --help shows: a line for the list of
commands, what the command does, and its exit status where there is more to say. It imports what it
needs itself: `dgkd --help` does not wait for torch.
"""

from __future__ import annotations

import argparse
import inspect
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dgkd_core import __version__
from dgkd_core.config.presets import apply_preset
from dgkd_core.runtime.environment import print_any_name
from dgkd_core.runtime.errors import InputError, enough_memory
from dgkd_core.runtime.signals import Interrupted, listening

SKIPPED = 3  # exit status: done, but for inputs that were unusable


def _path(text: str) -> Path:
    if not text:  # a shell variable that is not set, say; Path would take it for this folder
        raise argparse.ArgumentTypeError("is empty, expected a file or folder")
    return Path(text)


MODEL: dict[str, Any] = {
    "type": _path,
    "metavar": "MODEL",
    "help": "a folder that the stage `package` wrote; default: artifacts/model where it is there, "
    "else the model that ships with dgkd",
}
DEVICE: dict[str, Any] = {
    "metavar": "DEVICE",
    "help": "such as cpu or cuda:1; default: DGKD_DEVICE, else a GPU where there is one",
}


def _preset(args: argparse.Namespace) -> None:
    """lay a preset and single values over params.yaml

    Lay presets/NAME.yaml, then the given values, over params.yaml; comments stay.
    Example: dgkd preset voc12-animals data.root=../voc6/VOC2012 distill.lambda=0.5
    """
    for note in apply_preset(args.name, args.values):
        print(f"dgkd: {note}")
    print(f"params.yaml: preset {args.name}" + "".join(f", {value}" for value in args.values))


def _unpack(args: argparse.Namespace) -> None:
    """check and unpack a data set's downloaded archives

    Compare a downloaded archive's MD5 with the published one, check all that is in it and unpack
    it whole or not at all; it can be run again. The published MD5s of VOCtrainval_11-May-2012.tar
    and benchmark.tgz (SBD) are known.
    Example: dgkd unpack VOCtrainval_11-May-2012.tar benchmark.tgz data
    """
    from dgkd_core.datasets.archive import unpack, wanted_md5

    if args.md5 is not None and len(args.archives) > 1:
        raise InputError(f"--md5 with {len(args.archives)} archives, expected one")
    for archive in args.archives:  # before the first is unpacked
        wanted_md5(archive, args.md5)
    with listening():
        for archive in args.archives:
            print(*unpack(archive, args.out, args.md5), sep="\n", flush=True)


def _authors(args: argparse.Namespace) -> None:
    """the authors' released student or teacher into a model folder

    Write the authors' released student or teacher as a model folder.
    Example: dgkd convert authors student.pth models/released
    """
    from dgkd_core.convert.authors import convert_authors

    names = None if args.classes is None else [name.strip() for name in args.classes.split(",")]
    print(*convert_authors(args.checkpoint, args.out, args.role, names), sep="\n")


def _mxnet(args: argparse.Namespace) -> None:
    """WideResNet-38's ImageNet weights (.params) into a backbone file

    Write the ImageNet weights of WideResNet-38, published as an MXNet .params file, as a file for
    model.weights.
    """
    from dgkd_core.convert.mxnet import convert_mxnet

    print(*convert_mxnet(args.file, args.out), sep="\n")


def _model(args: argparse.Namespace, another: str = "-m") -> Path:
    from dgkd_core.deploy.shipped import chosen

    return chosen(args.model, another)


def _predict(args: argparse.Namespace) -> None:
    """masks of dark photographs

    Write a mask of every photograph: OUT/NAME.png (class ids, VOC's palette, the photograph's own
    size, upright), OUT/overlay/NAME.jpg (the brightened photograph under its mask) and
    OUT/predictions.json (areas and probabilities of the classes). Folders are searched with all
    their subfolders, which OUT mirrors. Where two photographs would be called the same, the second
    keeps its suffix in its name or gets a number. What OUT holds already is written anew.
    Example: dgkd predict my-night-photo.jpg -o out

    Exit status: 0 all done; 3 some photographs were unusable and skipped (named on stderr and in
    predictions.json), the others done; 1 nothing done, or the model or OUT is unusable; 2 wrong
    usage; 130 Ctrl-C, what was done is kept.
    """
    from dgkd_core.deploy.predict import predict

    model = _model(args)
    if predict(args.photos, model, args.out, args.device, args.batch, args.depth, args.overlay):
        sys.exit(SKIPPED)


def _export(args: argparse.Namespace) -> None:
    """write a model's networks as ONNX or torch.export files

    Write a model's networks as files that need no dgkd, with a script beside them that runs them
    on a photograph, and compare what they compute with the model.
    Example: dgkd export -m artifacts/model -o night.onnx
    """
    from dgkd_core.deploy.export import export

    print(*export(_model(args), args.out, args.format), sep="\n")


def _serve(args: argparse.Namespace) -> None:
    """a page on this machine: a dark photograph in, its segmentation out

    Show a model on a page in the browser, for this machine alone unless --host says otherwise.
    Nothing is sent or fetched elsewhere. Behind a web server that shows it under a path of its
    own: GRADIO_ROOT_PATH=/PATH dgkd serve. Example: dgkd serve
    """
    from dgkd_core.deploy.serve import serve

    serve(_model(args), args.host, args.port, args.device)


def _info(args: argparse.Namespace) -> None:
    """what a model folder holds and where it comes from

    Load a model folder, which checks it, and tell its classes, networks, size, scores and how it
    was made.
    """
    from dgkd_core.deploy.info import described, facts

    model = _model(args, "`dgkd info MODEL`")
    known = facts(model)
    text = json.dumps(known, indent=2, ensure_ascii=False)
    print(text if args.json else described(model, known))


def _doctor(args: argparse.Namespace) -> None:
    """whether this machine and this project are fit for `dvc repro`

    Look at packages, devices, memory, disk, git, DVC and, where there is a params.yaml here, at
    the data and weights that it names. Nothing is fetched or changed.

    Exit status: 0 fit, warnings or not; 1 something would stop `dvc repro`.
    """
    from dgkd_core.cli.doctor import examine

    sys.exit(examine())


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to 4096")
    return int(text)


def _add(commands: Any, run: Callable[[argparse.Namespace], None]) -> Any:
    """Add the command that a function of this module is; what adds arguments to it."""
    help, description, *more = (inspect.getdoc(run) or "").split("\n\n")
    command = commands.add_parser(
        run.__name__[1:], help=help, description=description, epilog="\n".join(more)
    )
    command.set_defaults(run=run)
    return command.add_argument


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dgkd", description="Weakly-supervised semantic segmentation in the dark."
    )
    parser.add_argument("--version", action="version", version=f"dgkd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    argument = _add(commands, _preset)
    argument("name", help="a file in presets/ without .yaml; scenes is the default")
    argument("values", nargs="*", metavar="key=value", help="such as seed=1")

    argument = _add(commands, _unpack)
    argument("archives", nargs="+", type=_path, metavar="ARCHIVE", help="a tar, tar.gz or zip file")
    argument("out", type=_path, metavar="OUT", help="a folder; what is in it stays")
    md5 = "what the MD5 of the (only) archive must be; any: unpack whatever it is"
    argument("--md5", metavar="HASH", help=md5)

    what = "turn weights published by others into this project's"
    convert = commands.add_parser("convert", help=what, description=f"{what.capitalize()}.")
    kinds = convert.add_subparsers(title="kinds", required=True, metavar="KIND")

    argument = _add(kinds, _authors)
    argument("checkpoint", type=_path, help="the authors' file; no code in it is run")
    argument("out", type=_path, help="a new folder, or a model folder to replace")
    role = "default: student where the checkpoint holds backbone.CondNet"
    argument("--role", choices=("student", "teacher"), help=role)
    names = "the class names by id; default: VOC's for 20 classes, LIS's for 8"
    argument("--classes", metavar="NAME,NAME,…", help=names)

    argument = _add(kinds, _mxnet)
    argument("file", type=_path, help="such as ilsvrc-cls_rna-a1_cls1000_ep-0001.params")
    argument("out", type=_path, help="a .safetensors file")

    argument = _add(commands, _predict)
    argument("photos", nargs="+", metavar="PHOTO", help="files, folders or (quoted) glob patterns")
    argument("-m", "--model", **MODEL)
    argument("-o", "--out", type=_path, required=True, metavar="OUT", help="a folder, new or not")
    argument("--device", **DEVICE)
    batch = "photographs at once; default: as in the chain"
    argument("--batch", type=_count, metavar="N", help=batch)
    depth = "measured depth maps NAME.png, for a model of depth.model: given"
    argument("--depth", type=_path, metavar="FOLDER", help=depth)
    alone = "masks and the table alone"
    argument("--no-overlay", dest="overlay", action="store_false", help=alone)

    argument = _add(commands, _export)
    argument("-m", "--model", **MODEL)
    form = "onnx (the default) for onnxruntime and others, torch for torch.export.load"
    argument("--format", choices=("onnx", "torch"), default="onnx", help=form)
    name = "NAME.onnx or NAME.pt2"
    argument("-o", "--out", type=_path, required=True, metavar="FILE", help=name)

    argument = _add(commands, _serve)
    argument("-m", "--model", **MODEL)
    argument("--port", type=int, default=7860, help="7860 where none is given")
    address = "address to listen on; 0.0.0.0: the network's, too"
    argument("--host", default="127.0.0.1", help=address)
    argument("--device", **DEVICE)

    argument = _add(commands, _info)
    argument("model", nargs="?", **MODEL)
    argument("--json", action="store_true", help="all of it, for programs")

    _add(commands, _doctor)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; unusable input ends with one line and exit status 1."""
    print_any_name()
    args = _parser().parse_args(argv)
    try:
        with enough_memory():
            args.run(args)
    except (Interrupted, KeyboardInterrupt) as error:
        number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
        print(f"dgkd: stopped by {signal.Signals(number).name}", file=sys.stderr)
        sys.exit(128 + number)
    except InputError as error:
        sys.exit("\n".join(f"dgkd: {line}" for line in str(error).splitlines()))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        sys.exit(f"dgkd: {name}{error.strerror or error}")


if __name__ == "__main__":
    main()
