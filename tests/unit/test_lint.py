"""Types, style and import directions are part of the tests (`make lint` runs this file alone)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PACKAGES = ("app", "vmbackend", "guest", "runtime")
MAX_LINES = 800


def check(*command: str) -> None:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "arguments",
    [
        (*PACKAGES, "packaging/hello.py"),
        ("--platform", "win32", "app", "vmbackend"),
        ("--platform", "darwin", "app", "vmbackend"),
    ],
    ids=["linux", "win32", "darwin"],
)
def test_types(arguments: tuple[str, ...]) -> None:
    check(sys.executable, "-m", "mypy", *arguments)


def test_style() -> None:
    check(sys.executable, "-m", "ruff", "check", ".")


def test_format() -> None:
    check(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_import_directions() -> None:
    check(str(BIN / "lint-imports"))


def test_modules_are_small() -> None:
    sources = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    long = {str(path): lines for path in sources if (lines := len(path.read_text().splitlines())) > MAX_LINES}
    assert long == {}


def test_packaging_is_no_package() -> None:
    """A package of that name would shadow the one pip and pytest import."""
    assert not (REPOSITORY / "packaging/__init__.py").exists()
