"""One engine for the whole tier; a test that kills or stops engines makes its own with `new_engine`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.images import busybox_image_tar
from tests.harness import REPOSITORY, EngineElsewhere, RunningEngine

EMBEDDED_IMAGES = REPOSITORY / "build/images"
NewEngine = Callable[..., RunningEngine]


@pytest.fixture(scope="session")
def busybox_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "busybox.tar"
    busybox_image_tar(path, reference="busybox:latest")
    return path


@pytest.fixture(scope="session")
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, busybox_archive: Path
) -> Iterator[RunningEngine | EngineElsewhere]:
    if host := request.config.getoption("--engine-host"):
        elsewhere = EngineElsewhere(host, tmp_path_factory.mktemp("docker-config"))
        elsewhere.load(busybox_archive)
        yield elsewhere
        return
    running = RunningEngine(tmp_path_factory.mktemp("engine"), "--embedded-images", str(EMBEDDED_IMAGES))
    running.load(busybox_archive)
    yield running
    running.close()


@pytest.fixture
def new_engine(request: pytest.FixtureRequest, tmp_path: Path, busybox_archive: Path) -> Iterator[NewEngine]:
    if request.config.getoption("--engine-host"):
        pytest.skip("needs an engine of its own")
    made: list[RunningEngine] = []

    def make(name: str = "engine", *arguments: str) -> RunningEngine:
        running = RunningEngine(tmp_path / name, *arguments)
        made.append(running)
        running.load(busybox_archive)
        return running

    yield make
    for running in made:
        running.close()


@pytest.fixture(autouse=True)
def _no_containers_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "engine" in request.fixturenames:
        running: RunningEngine = request.getfixturevalue("engine")
        for container in running.get("/containers/json?all=1"):
            running.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")


@pytest.fixture(scope="module")
def nothing_built_stays(engine: RunningEngine) -> Iterator[None]:
    """Other modules share the engine, and count its images and its cache."""
    before = {image["Id"] for image in engine.get("/images/json?all=1")}
    yield
    for image in engine.get("/images/json?all=1"):
        if image["Id"] not in before:
            engine.request("DELETE", f"/images/{image['Id']}?force=1")
    engine.post("/build/prune?all=1", expect=200)
