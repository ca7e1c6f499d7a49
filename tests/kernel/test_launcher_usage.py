"""The launcher's command line."""

import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = [sys.executable, "-m", "runtime", "launcher"]


def launcher(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LAUNCHER, *args], check=False, capture_output=True, text=True, timeout=30)


def test_help() -> None:
    result = launcher("--help")
    assert result.returncode == 0
    assert "--run-dir DIR" in result.stdout


@pytest.mark.parametrize("args", [[], ["--run-dir"], ["--fly"], ["--run-dir", "/x", "extra"]])
def test_bad_arguments(args: list[str]) -> None:
    result = launcher(*args)
    assert result.returncode == 2
    assert "usage:" in result.stderr


def test_a_socket_path_too_long_is_said(tmp_path: Path) -> None:
    result = launcher("--run-dir", str(tmp_path / ("x" * 120)), "--daemon")
    assert result.returncode == 1
    assert "cannot listen" in result.stderr
