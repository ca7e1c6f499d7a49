import sys
from argparse import ArgumentParser, Namespace
from typing import Any, Literal

from app.cli.context import Context
from app.cli.exit_codes import FAILED
from app.cli.output import print_json
from app.engine.errors import EngineError

_KINDS: dict[str, tuple[Literal["containers", "images"], ...]] = {
    "container": ("containers",),
    "image": ("images",),
    "": ("containers", "images"),
}


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--type", choices=["container", "image"], default="", help="what to look for (default: both)")
    parser.add_argument("names", nargs="+", metavar="NAME")


def run(context: Context, arguments: Namespace) -> int:
    found, code = [], 0
    for name in arguments.names:
        document = _find(context, name, arguments.type)
        if document is None:
            sys.stderr.write(f"wherry: No such object: {name}\n")
            code = FAILED
        else:
            found.append(document)
    print_json(found)
    return code


def _find(context: Context, name: str, kind: str) -> dict[str, Any] | None:
    for collection in _KINDS[kind]:
        try:
            return context.client.inspect(collection, name)
        except EngineError as failure:
            if failure.status != 404:
                raise
    return None
