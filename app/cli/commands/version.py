import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from app import __version__
from app.cli.context import Context
from app.cli.output import add_format_option, print_json
from app.engine.client import API_VERSION
from app.engine.errors import EngineUnreachable


def configure(parser: ArgumentParser) -> None:
    add_format_option(parser)


def run(context: Context, arguments: Namespace) -> int:
    """An engine that does not answer has no version, which is no failure of this command."""
    client = {"version": __version__, "api_version": API_VERSION, "python": sys.version.split()[0]}
    engine: dict[str, Any] | None
    try:
        engine, why = asdict(context.client.version()), ""
    except EngineUnreachable as failure:
        engine, why = None, str(failure)
    if arguments.format == "json":
        print_json({"client": client, "engine": engine})
        return 0
    _print("Client", client)
    if engine is None:
        sys.stdout.write(f"Engine: {why}\n")
    else:
        _print("Engine", engine)
    return 0


def _print(title: str, facts: dict[str, Any]) -> None:
    sys.stdout.write(f"{title}:\n")
    width = max(map(len, facts)) + 1
    sys.stdout.writelines(f"  {name.replace('_', ' ') + ':':{width}} {value}\n" for name, value in facts.items())
