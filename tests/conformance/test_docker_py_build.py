"""docker-py's builds: contexts from paths and file objects, and how it reads what comes back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, BuildError, ImageNotFound

from tests.harness import RunningEngine

# docker-py leaves the connection of a stream it was refused to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("nothing_built_stays"),
]


@pytest.fixture
def client(engine: RunningEngine) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=engine.host)
    yield client
    client.close()


def script(*lines: str) -> io.BytesIO:
    return io.BytesIO("\n".join(lines).encode())


def stream(client: docker.DockerClient, **options: Any) -> list[dict[str, Any]]:
    return list(client.api.build(decode=True, **options))


def test_images_are_returned_with_their_log(client: docker.DockerClient) -> None:
    image, log = client.images.build(fileobj=script("FROM busybox", "RUN echo said"), tag="py-built")
    assert image.tags == ["py-built:latest"]
    assert any(entry.get("stream") == "said\n" for entry in log)
    assert client.containers.run("py-built", "true", remove=True) == b""


def test_a_failing_build_carries_its_log(client: docker.DockerClient) -> None:
    with pytest.raises(BuildError) as caught:
        client.images.build(fileobj=script("FROM busybox", "RUN echo before; exit 3"), nocache=True)
    assert "returned a non-zero code: 3" in str(caught.value)
    assert any(entry.get("stream") == "before\n" for entry in caught.value.build_log)
    with pytest.raises(APIError) as refused:
        client.images.build(fileobj=script("FROM busybox", "NOTHING of the kind"))
    assert refused.value.status_code == 400


def test_images_of_nothing_but_configuration(client: docker.DockerClient) -> None:
    stream(client, fileobj=script("FROM scratch", "ARG test", "USER $test"), tag="py-args", buildargs={"test": "OK"})
    assert client.api.inspect_image("py-args")["Config"]["User"] == "OK"
    stream(client, fileobj=script("FROM scratch"), tag="py-labels", labels={"test": "OK"})
    assert client.api.inspect_image("py-labels")["Config"]["Labels"] == {"test": "OK"}
    lines = stream(
        client, fileobj=script("FROM scratch", 'CMD sh -c "x"'), tag="py-shm", shmsize=1 << 27, isolation="default"
    )
    assert "Successfully tagged" in lines[-1]["stream"]


def test_targets(client: docker.DockerClient) -> None:
    text = script(
        *("FROM busybox as first", "RUN touch /made", "FROM nosuch:latest", "COPY --from=first /made ."),
        'ONBUILD RUN echo "not in the first"',
    )
    stream(client, fileobj=text, target="first", tag="py-target")
    assert not client.api.inspect_image("py-target")["Config"]["OnBuild"]


def test_networks_of_commands(client: docker.DockerClient, engine: RunningEngine) -> None:
    network = client.networks.create("py-build-network")
    peer = client.containers.run("busybox", "sleep 1000", detach=True)
    network.connect(peer, aliases=["pingtarget.docker"])
    text = ("FROM busybox", "RUN ping -c1 pingtarget.docker")
    lines = stream(client, fileobj=script(*text), network_mode=network.id, tag="py-network", nocache=True)
    assert "Successfully tagged" in lines[-1]["stream"]
    lines = stream(client, fileobj=script(*text), network_mode="none", tag="py-none", nocache=True)
    assert lines[-1]["errorDetail"]["code"] == 1
    with pytest.raises(ImageNotFound):
        client.images.get("py-none")
    peer.remove(force=True)
    network.remove()


def test_hosts_and_limits(client: docker.DockerClient) -> None:
    text = script("FROM busybox", "RUN ping -c1 extrahost.local.test", "RUN cp /etc/hosts /hosts-file")
    limits = {"memory": 64 << 20, "cpusetcpus": "0", "cpushares": 1000, "memswap": 128 << 20}
    lines = stream(
        client, fileobj=text, tag="py-hosts", extra_hosts={"extrahost.local.test": "127.0.0.1"}, container_limits=limits
    )
    assert "Successfully tagged" in lines[-1]["stream"], lines[-1]
    assert b"127.0.0.1\textrahost.local.test" in client.containers.run("py-hosts", "cat /hosts-file", remove=True)


def test_contexts(client: docker.DockerClient, tmp_path: Path) -> None:
    context, elsewhere = tmp_path / "context", tmp_path / "elsewhere"
    (context / "nested").mkdir(parents=True)
    elsewhere.mkdir()
    (context / "file.txt").write_text("hello")
    (context / ".dockerignore").write_text(".dockerignore\nignored\n!ignored/kept\n")
    text = "FROM busybox\nCOPY . /src\nWORKDIR /src\n"
    for path in (context / "nested/custom.dockerfile", elsewhere / "Dockerfile"):
        path.write_text(text)
    for dockerfile, expected in (("nested/custom.dockerfile", ["file.txt", "nested"]),):
        lines = stream(client, path=str(context), dockerfile=dockerfile, tag="py-context", gzip=True)
        assert "Successfully tagged" in lines[-1]["stream"]
        assert client.containers.run("py-context", "ls", remove=True).decode().split() == expected
    lines = stream(client, path=str(context), dockerfile=str(elsewhere / "Dockerfile"), tag="py-outside")
    listed = client.containers.run("py-outside", "ls -A", remove=True).decode().split()
    assert listed == ["file.txt", "nested"]


def test_quietly_and_pruned(client: docker.DockerClient) -> None:
    lines = stream(client, fileobj=script("FROM busybox", "RUN echo quiet"), quiet=True)
    assert client.images.get(lines[-1]["stream"].strip())
    assert isinstance(client.api.prune_builds()["SpaceReclaimed"], int)


def test_proxies(client: docker.DockerClient) -> None:
    lines = stream(
        client,
        fileobj=script("FROM busybox", 'RUN env | grep "HTTP_PROXY=b"', 'RUN env | grep "ftp_proxy=xxx"'),
        buildargs={"HTTP_PROXY": "b", "ftp_proxy": "xxx"},
        tag="py-proxy",
        nocache=True,
    )
    assert "Successfully tagged" in lines[-1]["stream"]
    assert "PROXY" not in str(client.api.inspect_image("py-proxy")["Config"]["Env"])
    assert not any("consumed" in str(line) for line in lines)


def test_bad_platforms(client: docker.DockerClient) -> None:
    with pytest.raises(APIError) as caught:
        stream(client, fileobj=script("FROM busybox"), platform="foobar")
    assert "unknown operating system" in str(caught.value) or "invalid platform" in str(caught.value)
