"""``python -m guest``: build the guest image and the embedded container image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from guest.builder.arch import ARCHITECTURES, Architecture, host_architecture
from guest.builder.build import build_container_image, build_guest
from guest.builder.errors import BuildError
from guest.builder.pins import PINS_FILE, write_pins
from guest.builder.refresh import current_parts

PARTS_FOLDER = Path("build/parts")


def main(argv: list[str]) -> int:
    """Run one command; 0 when done, 1 with a sentence on standard error when it cannot be done."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m guest",
        description="Build the virtual machine image that carries the engine, and the container image shipped with it. "
        "Needs Debian 12's apt sources, qemu-utils, e2fsprogs and squashfs-tools; needs no root.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="build the guest image (kernel, initramfs, system, contract.json)")
    _add_arch(build)
    build.add_argument("--output", type=Path, help="folder to write to (default: build/guest/<arch>)")
    build.set_defaults(run=_build)

    image = commands.add_parser("image", help="build the embedded container image alpine as a docker-archive")
    _add_arch(image)
    image.add_argument(
        "--output", type=Path, default=Path("build/images"), help="folder to write to (default: %(default)s)"
    )
    image.set_defaults(run=_image)

    pin = commands.add_parser("pin", help="refresh pins.json to what Debian serves today and packages.json names")
    pin.set_defaults(run=_pin)
    return parser


def _add_arch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch",
        choices=sorted(ARCHITECTURES),
        default=host_architecture(),
        help="architecture of the image (default: this machine's, %(default)s)",
    )


def _arch(arguments: argparse.Namespace) -> Architecture:
    if arguments.arch not in ARCHITECTURES:
        raise BuildError(
            f"no guest image exists for {arguments.arch}; choose one with --arch {'|'.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[arguments.arch]


def _build(arguments: argparse.Namespace) -> None:
    arch = _arch(arguments)
    output = arguments.output or Path("build/guest") / arch.name
    built = build_guest(arch, output, PARTS_FOLDER, _report)
    _report(f"{output}: {'built' if built else 'up to date'}")


def _image(arguments: argparse.Namespace) -> None:
    built = build_container_image(_arch(arguments), arguments.output, PARTS_FOLDER, _report)
    _report(f"{arguments.output}: {'built' if built else 'up to date'}")


def _pin(_arguments: argparse.Namespace) -> None:
    parts = current_parts()
    write_pins(parts)
    _report(f"{PINS_FILE.name}: {len(parts)} parts pinned")


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
