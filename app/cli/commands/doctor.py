import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from app.cli.context import Context
from app.cli.exit_codes import FAILED
from app.cli.output import add_format_option, print_json
from app.services.diagnostics import run_checks

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
_COLOURS = {"ok": "32", "warn": "33", "fail": "31"}


def configure(parser: ArgumentParser) -> None:
    parser.epilog = "The exit code is 1 if a check fails, else 0."
    add_format_option(parser)
    parser.add_argument(
        "--bundle", type=Path, metavar="FILE", help="write a zip archive with logs and facts, without secrets"
    )


def run(context: Context, arguments: Namespace) -> int:
    checks = run_checks(context.backend, context.locations)
    if arguments.bundle is not None:
        from app.services.bundle import write_bundle

        names = write_bundle(arguments.bundle, context.backend, checks, lambda: context.machines)
        sys.stderr.write(f"wherry: {arguments.bundle} has {', '.join(names)}; look through it before you share it\n")
    if arguments.format == "json":
        print_json(checks)
    else:
        for check in checks:
            mark = _MARKS[check.verdict]
            if sys.stdout.isatty():
                mark = f"\x1b[{_COLOURS[check.verdict]}m{mark}\x1b[0m"
            sys.stdout.write(f"{mark}  {check.name}: {check.sentence}\n")
            if check.remedy:
                sys.stdout.write(f"      {check.remedy}\n")
    return FAILED if any(check.verdict == "fail" for check in checks) else 0
