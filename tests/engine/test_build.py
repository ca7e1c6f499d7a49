"""Builds through the API: what a client cannot see of them afterwards, whatever ends them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import socket
import tarfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from runtime.cgroups import mounted_roots
from tests.engine.conftest import NewEngine
from tests.harness import RunningEngine, UnixConnection

pytestmark = pytest.mark.usefixtures("nothing_built_stays")


def context(dockerfile: str, files: Mapping[str, bytes] | None = None) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        for name, data in {"Dockerfile": dockerfile.encode(), **(files or {})}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return body.getvalue()


def build(engine: RunningEngine, dockerfile: str, query: str = "") -> list[dict[str, object]]:
    status, answer = engine.request("POST", f"/build?{query}", context(dockerfile), timeout_s=60)
    assert status == 200, answer
    return [json.loads(line) for line in answer.splitlines()]


def begin(engine: RunningEngine, dockerfile: str, until: str, query: str = "nocache=1") -> UnixConnection:
    """A build that has come to where its output has `until`."""
    connection = UnixConnection(engine.socket)
    connection.request("POST", f"/build?{query}", context(dockerfile), {"Content-Type": "application/x-tar"})
    response = connection.getresponse()
    seen = b""
    while until.encode() not in seen:
        seen += response.read1()
    return connection


def directories(path: Path) -> list[str]:
    return sorted(os.listdir(path)) if path.exists() else []


def cgroups(engine: RunningEngine) -> list[str]:
    found = []
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        if directory.endswith(f"wherry-{engine.instance}"):
            found += names
    return found


def wait_for(condition: object, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def test_nothing_is_left_of_a_build_whose_client_goes_away(engine: RunningEngine) -> None:
    snapshots = directories(engine.data_root / "snapshots")
    connection = begin(engine, "FROM busybox\nRUN echo begun; sleep 1000\n", "begun")
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    wait_for(lambda: not cgroups(engine))
    wait_for(lambda: directories(engine.data_root / "snapshots") == snapshots)
    assert directories(engine.data_root / "build/scratch") == []
    assert directories(engine.run_dir / "bundles") == []


def test_nothing_is_left_of_a_build_whose_engine_is_killed(new_engine: NewEngine) -> None:
    engine = new_engine()
    images = {image["Id"] for image in engine.get("/images/json?all=1")}
    layers = directories(engine.data_root / "layers")
    text = "FROM busybox\nRUN echo a > /a\nRUN echo begun; sleep 1000\n"
    connection = begin(engine, text, "begun\\n", "nocache=1&cgroupparent=/wherry-test-build")
    parents = [Path(f"{root}/wherry-test-build") for root in mounted_roots()]
    assert all(len([*parent.glob("*/cgroup.procs")]) == 1 for parent in parents)
    engine.kill()
    connection.close()
    engine.restart()
    assert {image["Id"] for image in engine.get("/images/json?all=1")} == images
    assert engine.get("/containers/json?all=1") == []
    assert directories(engine.data_root / "snapshots") == []
    assert directories(engine.run_dir / "bundles") == []
    assert directories(engine.data_root / "build/scratch") == []
    assert set(layers) <= set(directories(engine.data_root / "layers"))
    assert cgroups(engine) == []
    assert not any(map(Path.exists, parents))


def test_what_a_killed_engine_had_built_is_not_built_again(new_engine: NewEngine) -> None:
    engine = new_engine()
    text = "FROM busybox\nRUN date +%N > /a\nCOPY Dockerfile /copied\nRUN echo begun; sleep 1000\n"
    connection = begin(engine, text, "begun\\n", "")
    wait_for(lambda: len(engine.get("/system/df")["BuildCache"]) == 2, 60)
    engine.kill()
    connection.close()
    engine.restart()
    wait_for(lambda: not cgroups(engine), 60)
    connection = begin(engine, text, "begun\\n", "")  # its first two steps are there
    assert [entry["UsageCount"] for entry in engine.get("/system/df")["BuildCache"]] == [1, 1]
    connection.close()


def test_the_cache_outlives_the_engine_and_the_image(new_engine: NewEngine) -> None:
    engine = new_engine()
    text = "FROM busybox\nRUN date +%N > /made\nRUN true\n"
    first = build(engine, text, "t=kept")
    engine.stop()
    engine.restart()
    second = build(engine, text, "t=kept")
    assert [line for line in second if line == {"stream": " ---> Using cache\n"}] == [second[3], second[6]]
    assert first[-2:] == second[-2:]
    status, _ = engine.request("DELETE", "/images/kept")
    assert status == 200
    third = build(engine, text, "t=kept")
    assert third[-2:] == first[-2:]
    engine.post("/build/prune", expect=200)
    assert build(engine, text, "t=other")[-2] != first[-2]


def test_independent_stages_are_built_at_the_same_time(engine: RunningEngine) -> None:
    """Each waits for the other, through a cache they share."""
    wait = "for i in $(seq 300); do [ -e /c/{other} ] && exit 0; sleep 0.1; done; exit 1"
    mount = "--mount=type=cache,id=meeting,target=/c"
    text = (
        f"FROM busybox AS one\nRUN {mount} touch /c/one; {wait.format(other='two')}\n"
        f"FROM busybox AS two\nRUN {mount} touch /c/two; {wait.format(other='one')}\n"
        "FROM busybox\nCOPY --from=one /etc/passwd /1\nCOPY --from=two /etc/passwd /2\n"
    )
    lines = build(engine, text, "nocache=1")
    assert "Successfully built" in str(lines[-1])
    steps = [str(line["stream"]) for line in lines if str(line.get("stream", "")).startswith("Step ")]
    assert [step.split(" ")[1] for step in steps] == [f"{number}/7" for number in range(1, 8)]


def test_builds_at_the_same_time(engine: RunningEngine) -> None:
    results: list[list[dict[str, object]]] = []
    text = "FROM busybox\nRUN head -c 100000 /dev/urandom > /random\nRUN md5sum /random > /sum\n"
    threads = [
        threading.Thread(target=lambda number=number: results.append(build(engine, text, f"nocache=1&t=same{number}")))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("Successfully tagged" in str(lines[-1]) for lines in results)


def test_what_is_asked_wrongly_is_refused(engine: RunningEngine) -> None:
    body = context("FROM busybox\n")
    for query, expected in {
        "version=2": "set DOCKER_BUILDKIT=0",
        "squash=1": "squash is only supported with experimental mode",
        "dockerfile=nothing": "Cannot locate specified Dockerfile: nothing",
        "dockerfile=../outside": "Forbidden path outside the build context",
        "buildargs=%7B": "error reading buildargs",
        "platform=foobar": "unknown operating system or architecture",
        "t=UPPER": "must be lowercase",
        "target=missing": "target stage",
        "outputs=x": "outputs is not supported",
    }.items():
        status, answer = engine.request("POST", f"/build?{query}", body)
        assert status >= 400, (query, answer)
        assert expected in json.loads(answer)["message"], query
    status, answer = engine.request("POST", "/build", b"this is no tar")
    assert status == 400, answer


def test_secrets_reach_commands_and_nothing_else(engine: RunningEngine) -> None:
    import base64

    text = (
        "FROM busybox\nRUN --mount=type=secret,id=key,required [ $(cat /run/secrets/key) = hush ]\n"
        "RUN --mount=type=secret,id=key,env=KEY [ $KEY = hush ]\n"
    )
    header = base64.urlsafe_b64encode(json.dumps({"key": base64.b64encode(b"hush").decode()}).encode()).decode()
    status, answer = engine.request(
        "POST", "/build?t=secret&nocache=1", context(text), headers={"X-Wherry-Secrets": header}
    )
    assert status == 200
    assert b"Successfully tagged" in answer, answer
    assert b"hush" not in json.dumps(engine.get("/images/secret/history")).replace("= hush ]", "").encode()


def test_hostile_contexts_stay_inside(engine: RunningEngine) -> None:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        for name, link in (("out", "/etc"), ("up", "../../../../etc")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            archive.addfile(entry)
        entry = tarfile.TarInfo("Dockerfile")
        data = b"FROM busybox\nCOPY out/shadow /x\n"
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    status, answer = engine.request("POST", "/build", body.getvalue())
    assert (status, b"file not found in build context" in answer) == (200, True), answer
    lines = build(
        engine, "FROM busybox\nRUN ln -s /proc/1/root/etc /l && rm -rf /tmp && ln -s / /tmp\nCOPY Dockerfile /l/\n"
    )
    assert not Path("/etc/Dockerfile").exists()
    assert "error" in lines[-1] or "Successfully" in str(lines[-1])


def served(directory: Path) -> tuple[http.server.ThreadingHTTPServer, str]:
    handler = functools.partial(_QuietHandler, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_downloads(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("downloaded\n")
    (tmp_path / "context.tar").write_bytes(context("FROM busybox\nCOPY a /a\n", {"a": b"in the context"}))
    (tmp_path / "Dockerfile").write_text("FROM busybox\nLABEL only=dockerfile\n")
    data = b"downloaded\n"
    digest = hashlib.sha512(data).hexdigest()
    server, url = served(tmp_path)
    try:
        text = (
            f"FROM busybox\nADD --checksum=sha512:{digest} {url}/file.txt /got/\nADD {url}/file.txt /named\n"
            "RUN cat /got/file.txt /named && stat -c %a /named\n"
        )
        lines = build(engine, text, "nocache=1")
        assert "downloaded\ndownloaded\n600\n" in "".join(line.get("stream", "") for line in lines), lines
        assert "digest mismatch" in str(
            build(engine, f"FROM busybox\nADD --checksum=sha256:{'0' * 64} {url}/file.txt /\n")
        )
        wrong = build(engine, f"FROM busybox\nADD --checksum=sha384:{'0' * 96} {url}/file.txt /\n")
        assert f"digest mismatch sha384:{hashlib.new('sha384', data).hexdigest()}" in str(wrong)
        assert "404" in str(build(engine, f"FROM busybox\nADD {url}/missing /\n"))
        status, answer = engine.request("POST", f"/build?remote={url}/context.tar&t=remote")
        assert (status, b"Successfully tagged" in answer) == (200, True), answer
        status, answer = engine.request("POST", f"/build?remote={url}/Dockerfile&t=remote")
        assert engine.get("/images/remote/json")["Config"]["Labels"] == {"only": "dockerfile"}
        refused = build(engine, "FROM busybox\nADD http://127.0.0.1:1/x /\n")
        assert 'Get "http://127.0.0.1:1/x": dial tcp 127.0.0.1:1: connect: connection refused' in refused[-1].values()
        (tmp_path / "neither").write_bytes(b"\x7fELF\0")
        status, answer = engine.request("POST", f"/build?remote={url}/neither")
        assert (status, b"neither a tar archive nor a Dockerfile" in answer) == (400, True), answer
        status, answer = engine.request("POST", "/build?remote=/etc")
        assert status == 400
    finally:
        server.shutdown()
        server.server_close()


def layers_of(engine: RunningEngine, image: str) -> list[str]:
    return list(engine.get(f"/images/{image}/json")["RootFS"]["Layers"])


def test_a_linked_copy_is_the_same_layer_on_any_image(engine: RunningEngine) -> None:
    text = "FROM busybox AS base\nRUN echo {} > /below\nFROM base\nCOPY --link file /deep/er/\nCOPY --link file /1\n"
    for number, name in enumerate(("linked1", "linked2", "linked3")):
        body = context(text.format(number), {"file": b"linked"})
        status, answer = engine.request("POST", f"/build?t={name}", body, timeout_s=60)
        assert (status, b"Successfully tagged" in answer) == (200, True), answer
        assert answer.count(b"Using cache") == (2 if number else 0), (name, answer)
    first, second = layers_of(engine, "linked1"), layers_of(engine, "linked2")
    assert first[-2:] == second[-2:] and first[:-2] != second[:-2]
    read = engine.docker("run", "--rm", "linked3", "cat", "/below", "/deep/er/file", "/1")
    assert read.stdout == b"2\nlinkedlinked", read


def test_all_rights_are_for_those_who_ask_for_them(engine: RunningEngine) -> None:
    text = "FROM busybox\nRUN --security=insecure true\nRUN --network=host grep -c : /proc/net/dev\n"
    refused = build(engine, text, "nocache=1")
    assert "security.insecure is not allowed" in str(refused[-1])
    lines = build(engine, text, "nocache=1&allow=security.insecure")
    assert "Successfully built" in str(lines[-1]), lines


def test_contexts_with_names(engine: RunningEngine) -> None:
    text = (
        "FROM alpine AS replaced\nCOPY --from=extra /sub/file /from-context\n"
        "FROM replaced\nRUN --mount=from=extra,target=/m cat /m/sub/file > /mounted\n"
        "COPY --from=image /etc/group /group\nCOPY . /all\nRUN cat /from-context /mounted; ls /all; wc -l < /group\n"
    )
    named = {
        "extra": "directory:.hidden",
        "docker.io/library/alpine": "docker-image://busybox",
        "image": "docker-image://busybox:latest",
    }
    body = context(text, {".hidden/sub/file": b"extra\n", "plain": b""})
    status, answer = engine.request("POST", f"/build?nocache=1&contexts={quote(json.dumps(named))}", body, timeout_s=60)
    assert status == 200
    printed = b"".join(json.loads(line).get("stream", "").encode() for line in answer.splitlines())
    assert b"extra\nextra\nDockerfile\nplain\n6\n" in printed, printed
    for source, expected in {
        "nowhere": "neither docker-image://NAME nor a URL",
        "directory:.hidden": "has files",
    }.items():
        query = quote(json.dumps({"alpine": source}))
        _, answer = engine.request("POST", f"/build?nocache=1&contexts={query}", body)
        assert expected.encode() in answer, answer
