"""The ``dgkd`` command."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dgkd_core import __version__
from dgkd_core.config.presets import apply_preset
from dgkd_core.runtime.errors import InputError, out_of_memory
from dgkd_core.runtime.signals import Interrupted

MODEL = Path("artifacts/model")
SKIPPED = 3  # exit status: done, but for inputs that were unusable


def _preset(args: argparse.Namespace) -> None:
    for note in apply_preset(args.name, args.values):
        print(f"dgkd: {note}")
    print(f"params.yaml: preset {args.name}" + "".join(f", {value}" for value in args.values))


def _convert_authors(args: argparse.Namespace) -> None:
    from dgkd_core.convert.authors import convert_authors  # torch: not for --help

    names = None if args.classes is None else [name.strip() for name in args.classes.split(",")]
    print(*convert_authors(args.checkpoint, args.out, args.role, names), sep="\n")


def _convert_mxnet(args: argparse.Namespace) -> None:
    from dgkd_core.convert.mxnet import convert_mxnet

    print(*convert_mxnet(args.file, args.out), sep="\n")


def _unpack(args: argparse.Namespace) -> None:
    from dgkd_core.datasets.archive import unpack, wanted_md5

    if args.md5 is not None and len(args.archives) > 1:
        raise InputError(f"--md5 with {len(args.archives)} archives, expected one")
    for archive in args.archives:  # before the first is unpacked
        wanted_md5(archive, args.md5)
    for archive in args.archives:
        print(*unpack(archive, args.out, args.md5), sep="\n", flush=True)


def _predict(args: argparse.Namespace) -> None:
    from dgkd_core.deploy.predict import predict

    skipped = predict(
        args.photos,
        args.model,
        args.out,
        device=args.device,
        batch=args.batch,
        depth=args.depth,
        overlays=args.overlay,
    )
    if skipped:
        sys.exit(SKIPPED)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to 4096")
    return int(text)


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "predict",
        help="masks of dark photographs",
        description="Write a mask of every photograph: OUT/NAME.png (class ids, VOC's palette, the "
        "photograph's own size, upright), OUT/overlay/NAME.jpg (the brightened photograph under "
        "its mask) and OUT/predictions.json (areas and probabilities of the classes). Folders are "
        "searched with all their subfolders, which OUT mirrors. Where two photographs would be "
        "called the same, the second keeps its suffix in its name or gets a number. What OUT holds "
        "already is written anew. Example: dgkd predict night/ -o masks",
        epilog="Exit status: 0 all done; 3 some photographs were unusable and skipped (named on "
        "stderr and in predictions.json), the others done; 1 nothing done, or the model or OUT is "
        "unusable; 2 wrong usage; 130 Ctrl-C, what was done is kept.",
    )
    command.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="files, folders or (quoted) glob patterns"
    )
    _add_model(command, "-m", "--model")
    command.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT", help="a folder, new or not"
    )
    _add_device(command)
    command.add_argument(
        "--batch", type=_count, metavar="N", help="photographs at once; default: as in the chain"
    )
    command.add_argument(
        "--depth",
        type=Path,
        metavar="FOLDER",
        help="measured depth maps NAME.png, for a model of depth.model: given",
    )
    command.add_argument(
        "--no-overlay", dest="overlay", action="store_false", help="masks and the table alone"
    )
    command.set_defaults(run=_predict)


def _info(args: argparse.Namespace) -> None:
    from dgkd_core.deploy.info import described, facts

    known = facts(args.model)
    text = json.dumps(known, indent=2, ensure_ascii=False)
    print(text if args.json else described(args.model, known))


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "info",
        help="what a model folder holds and where it comes from",
        description="Load a model folder, which checks it, and tell its classes, networks, size, "
        "scores and how it was made.",
    )
    _add_model(command, "model", nargs="?")
    command.add_argument("--json", action="store_true", help="all of it, for programs")
    command.set_defaults(run=_info)


def _doctor(args: argparse.Namespace) -> None:
    from dgkd_core.cli.doctor import examine

    sys.exit(examine())


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "doctor",
        help="whether this machine and this project are fit for `dvc repro`",
        description="Look at packages, devices, memory, disk, git, DVC and, where there is a "
        "params.yaml here, at the data and weights that it names. Nothing is fetched or changed.",
        epilog="Exit status: 0 fit, warnings or not; 1 something would stop `dvc repro`.",
    )
    command.set_defaults(run=_doctor)


def _add_model(command: argparse.ArgumentParser, *names: str, nargs: str | None = None) -> None:
    command.add_argument(
        *names,
        nargs=nargs,
        type=Path,
        default=MODEL,
        metavar="MODEL",
        help="a folder that the stage `package` wrote; default: %(default)s",
    )


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        metavar="DEVICE",
        help="such as cpu or cuda:1; default: DGKD_DEVICE, else a GPU where there is one",
    )


def _add_unpack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "unpack",
        help="check and unpack a data set's downloaded archives",
        description="Compare a downloaded archive's MD5 with the published one, check all that is "
        "in it and unpack it whole or not at all; it can be run again. The published MD5s of "
        "VOCtrainval_11-May-2012.tar and benchmark.tgz (SBD) are known. "
        "Example: dgkd unpack VOCtrainval_11-May-2012.tar benchmark.tgz data",
    )
    command.add_argument(
        "archives", nargs="+", type=Path, metavar="ARCHIVE", help="a tar, tar.gz or zip file"
    )
    command.add_argument("out", type=Path, metavar="OUT", help="a folder; what is in it stays")
    command.add_argument(
        "--md5",
        metavar="HASH",
        help="what the MD5 of the (only) archive must be; any: unpack whatever it is",
    )
    command.set_defaults(run=_unpack)


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = commands.add_parser(
        "convert",
        help="turn weights published by others into this project's",
        description="Turn weights published by others into this project's.",
    )
    kinds = convert.add_subparsers(title="kinds", required=True, metavar="KIND")
    authors = kinds.add_parser(
        "authors",
        help="the authors' released student or teacher into a model folder",
        description="Write the authors' released student or teacher as a model folder. "
        "Example: dgkd convert authors student.pth models/released",
    )
    authors.add_argument("checkpoint", type=Path, help="the authors' file; no code in it is run")
    authors.add_argument("out", type=Path, help="a new folder, or a model folder to replace")
    authors.add_argument(
        "--role",
        choices=("student", "teacher"),
        help="default: student where the checkpoint holds backbone.CondNet",
    )
    authors.add_argument(
        "--classes",
        metavar="NAME,NAME,…",
        help="the class names by id; default: VOC's for 20 classes, LIS's for 8",
    )
    authors.set_defaults(run=_convert_authors)
    mxnet = kinds.add_parser(
        "mxnet",
        help="WideResNet-38's ImageNet weights (.params) into a backbone file",
        description="Write the ImageNet weights of WideResNet-38, published as an MXNet .params "
        "file, as a file for model.weights.",
    )
    mxnet.add_argument("file", type=Path, help="such as ilsvrc-cls_rna-a1_cls1000_ep-0001.params")
    mxnet.add_argument("out", type=Path, help="a .safetensors file")
    mxnet.set_defaults(run=_convert_mxnet)


def _export(args: argparse.Namespace) -> None:
    from dgkd_core.deploy.export import export

    print(*export(args.model, args.out, args.format), sep="\n")


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "export",
        help="write a model's networks as ONNX or torch.export files",
        description="Write a model's networks as files that need no dgkd, with a script beside "
        "them that runs them on a photograph, and compare what they compute with the model. "
        "Example: dgkd export -m artifacts/model -o night.onnx",
    )
    _add_model(command, "-m", "--model")
    command.add_argument(
        "--format",
        choices=("onnx", "torch"),
        default="onnx",
        help="onnx (the default) for onnxruntime and others, torch for torch.export.load",
    )
    command.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="NAME.onnx or NAME.pt2"
    )
    command.set_defaults(run=_export)


def _serve(args: argparse.Namespace) -> None:
    from dgkd_core.deploy.serve import serve

    serve(args.model, args.host, args.port, args.device)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "serve",
        help="a page on this machine: a dark photograph in, its segmentation out",
        description="Show a model on a page in the browser, for this machine alone unless --host "
        "says otherwise. Nothing is sent or fetched elsewhere. Behind a web server that shows it "
        "under a path of its own: GRADIO_ROOT_PATH=/PATH dgkd serve. "
        "Example: dgkd serve -m artifacts/model",
    )
    _add_model(command, "-m", "--model")
    command.add_argument("--port", type=int, default=7860, help="7860 where none is given")
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: the network's, too"
    )
    _add_device(command)
    command.set_defaults(run=_serve)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dgkd", description="Weakly-supervised semantic segmentation in the dark."
    )
    parser.add_argument("--version", action="version", version=f"dgkd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    preset = commands.add_parser(
        "preset",
        help="lay a preset and single values over params.yaml",
        description="Lay presets/NAME.yaml, then the given values, over params.yaml; comments "
        "stay. Example: dgkd preset voc12-animals data.root=../voc6/VOC2012 distill.lambda=0.5",
    )
    preset.add_argument("name", help="a file in presets/ without .yaml; scenes is the default")
    preset.add_argument("values", nargs="*", metavar="key=value", help="such as seed=1")
    preset.set_defaults(run=_preset)
    _add_unpack(commands)
    _add_convert(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_serve(commands)
    _add_info(commands)
    _add_doctor(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; unusable input ends with one line and exit status 1."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (Interrupted, KeyboardInterrupt) as error:
        number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
        print(f"dgkd: stopped by {signal.Signals(number).name}", file=sys.stderr)
        sys.exit(128 + number)
    except InputError as error:
        sys.exit("\n".join(f"dgkd: {line}" for line in str(error).splitlines()))
    except (MemoryError, RuntimeError) as error:
        if said := out_of_memory(error):
            sys.exit(f"dgkd: {said}")
        raise
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        sys.exit(f"dgkd: {name}{error.strerror or error}")


if __name__ == "__main__":
    main()
