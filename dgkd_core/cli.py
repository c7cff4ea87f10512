"""The ``dgkd`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dgkd_core import __version__
from dgkd_core.errors import InputError
from dgkd_core.presets import apply_preset


def _preset(args: argparse.Namespace) -> None:
    for note in apply_preset(args.name, args.values):
        print(f"dgkd: {note}")
    print(f"params.yaml: preset {args.name}" + "".join(f", {value}" for value in args.values))


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
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; unusable input ends with one line and exit status 1."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except InputError as error:
        sys.exit("\n".join(f"dgkd: {line}" for line in str(error).splitlines()))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        sys.exit(f"dgkd: {name}{error.strerror or error}")


if __name__ == "__main__":
    main()
