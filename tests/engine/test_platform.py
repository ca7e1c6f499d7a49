"""`--platform` against the image that is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.images import busybox_rootfs, host_architecture, oci_archive, tar_of
from tests.harness import RunningEngine

FOREIGN = "arm64" if os.uname().machine != "aarch64" else "amd64"


@pytest.fixture
def foreign_image(engine: RunningEngine, tmp_path: Path) -> Iterator[str]:
    layers = [tar_of(busybox_rootfs(()))]
    names = ["docker.io/library/foreign:latest"]
    engine.load(oci_archive(tmp_path / "foreign.tar", layers, names, {"Cmd": ["true"]}, [FOREIGN]))
    yield "foreign"
    engine.request("DELETE", "/images/foreign?force=1")


def test_the_platform_asked_for(engine: RunningEngine, foreign_image: str) -> None:
    own = host_architecture()
    for platform in (f"linux/{own}", own, "linux", ""):
        answer = engine.post(f"/containers/create?platform={platform}", {"Image": "busybox"}, 201)
        assert answer["Warnings"] == []
    answer = engine.post("/containers/create", {"Image": foreign_image}, 201)
    assert "does not match the detected host platform" in answer["Warnings"][0]
    assert engine.post(f"/containers/create?platform=linux/{FOREIGN}", {"Image": foreign_image}, 201)["Warnings"] == []
    status, message = engine.message("POST", f"/containers/create?platform=linux/{FOREIGN}", {"Image": "busybox"})
    assert status == 404 and "does not match the specified platform" in message
    status, message = engine.message("POST", "/containers/create?platform=linux/abacus", {"Image": "busybox"})
    assert (status, message) == (400, '"linux/abacus": unknown operating system or architecture: invalid argument')


def test_exec_keeps_the_score(engine: RunningEngine) -> None:
    engine.docker("run", "-d", "--name", "scored", "--oom-score-adj", "300", "busybox", "sleep", "100")
    assert engine.docker("exec", "scored", "cat", "/proc/self/oom_score_adj").stdout == b"300\n"
