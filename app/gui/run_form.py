"""What people type into the run dialog, checked field by field: each mistake is a sentence beside its field."""

import re
import shlex

from app.core.translations import tr

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
PORT = re.compile(r"(?:(?:\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:]+\]):)?(?:(\d+):)?(\d+)(?:/(?:tcp|udp))?")
VOLUME = re.compile(r"(?:[a-zA-Z]:[\\/])?[^:]+:/[^:]*(?::(?:ro|rw))?")
VARIABLE = re.compile(r"[^=\s]+=.*")
MEMORY = re.compile(r"\d+(?:\.\d+)?\s*[bkmg]?b?", re.IGNORECASE)


def entries(text: str) -> tuple[str, ...]:
    """The lines of a field which holds one entry a line."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def image_problem(text: str) -> str:
    return "" if text.strip() else tr("Choose an image.")


def name_problem(text: str) -> str:
    if not text or NAME.fullmatch(text):
        return ""
    return tr('Use letters, digits, ".", "_" and "-", at least two, and begin with a letter or digit.')


def command_problem(text: str) -> str:
    try:
        shlex.split(text)
    except ValueError:
        return tr("A quotation mark is missing.")
    return ""


def ports_problem(text: str) -> str:
    for entry in entries(text):
        match = PORT.fullmatch(entry)
        if not match:
            return tr('"{entry}" is not like 8080:80.', entry=entry)
        if any(number and not 0 < int(number) < 65536 for number in match.groups()):
            return tr('"{entry}": ports go from 1 to 65535.', entry=entry)
    return ""


def volumes_problem(text: str) -> str:
    for entry in entries(text):
        if not VOLUME.fullmatch(entry):
            return tr('"{entry}" is not like /home/me/site:/srv or name:/data:ro.', entry=entry)
    return ""


def environment_problem(text: str) -> str:
    for entry in entries(text):
        if not VARIABLE.fullmatch(entry):
            return tr('"{entry}" is not like NAME=value.', entry=entry)
    return ""


def memory_problem(text: str) -> str:
    return "" if not text or MEMORY.fullmatch(text.strip()) else tr("Write it like 512m or 2g.")


def cpus_problem(text: str) -> str:
    try:
        if not text or float(text) > 0:
            return ""
    except ValueError:
        pass
    return tr("Write it like 1.5.")
