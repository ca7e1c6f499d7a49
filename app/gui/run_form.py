"""What people type into the run dialog, checked field by field: each mistake is a sentence beside its field.

Whether an entry makes sense is decided by the parsers that read it in the end (`app.services.run_options`).
"""

import re
import shlex
from collections.abc import Callable

from app.core.errors import UserError
from app.core.translations import tr
from app.services import run_options

# The engine's own rule for names (Docker's RestrictedNamePattern).
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def entries(text: str) -> tuple[str, ...]:
    """The lines of a field which holds one entry a line."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def image_problem(text: str) -> str:
    return "" if text.strip() else tr("Choose an image.")


def name_problem(text: str) -> str:
    if not text.strip() or NAME.fullmatch(text.strip()):
        return ""
    return tr('Use letters, digits, ".", "_" and "-", at least two, and begin with a letter or digit.')


def command_problem(text: str) -> str:
    try:
        shlex.split(text)
    except ValueError:
        return tr("A quotation mark is missing.")
    return ""


def ports_problem(text: str) -> str:
    entry = _first_refused(text, lambda entry: run_options.port_bindings([entry]))
    return tr('"{entry}" is not like 8080:80.', entry=entry) if entry else ""


def volumes_problem(text: str) -> str:
    entry = _first_refused(text, lambda entry: run_options.volume_mounts([entry]))
    return tr('"{entry}" is not like /home/me/site:/srv or name:/data:ro.', entry=entry) if entry else ""


def environment_problem(text: str) -> str:
    entry = _first_refused(text, lambda entry: run_options.environment([entry]))
    return tr('"{entry}" is not like NAME=value.', entry=entry) if entry else ""


def memory_problem(text: str) -> str:
    return tr("Write it like 512m or 2g.") if _first_refused(text, run_options.memory_bytes) else ""


def cpus_problem(text: str) -> str:
    try:
        if not text.strip() or 0 < float(text) < float("inf"):
            return ""
    except ValueError:
        pass
    return tr("Write it like 1.5.")


def _first_refused(text: str, parse: Callable[[str], object]) -> str:
    """The first entry of `text` which `parse` does not take, or ""."""
    for entry in entries(text):
        try:
            parse(entry)
        except UserError:
            return entry
    return ""
