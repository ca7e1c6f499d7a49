"""`docker build` with the classic builder's protocol: what the CLI sends, and what a person reads."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.harness import RunningEngine

pytestmark = pytest.mark.usefixtures("nothing_built_stays")

Build = Callable[..., "CompletedProcess[bytes]"]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    return directory


@pytest.fixture
def build(engine: RunningEngine, context: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")

    def run(
        dockerfile: str, *arguments: str, files: Mapping[str, str] | None = None, code: int = 0
    ) -> CompletedProcess[bytes]:
        (context / "Dockerfile").write_text(dockerfile)
        for name, text in (files or {}).items():
            path = context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = engine.docker("build", *arguments, str(context))
        assert done.returncode == code, (done.stdout.decode(), done.stderr.decode())
        return done

    return run


def lines_of(engine: RunningEngine, image: str, *command: str) -> list[str]:
    done = engine.docker("run", "--rm", image, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()


def test_a_build_makes_a_tagged_image(engine: RunningEngine, build: Build) -> None:
    done = build("FROM busybox\nRUN echo one > /one\nCMD cat /one\n", "-t", "first")
    out = done.stdout.decode()
    assert "Step 1/3 : FROM busybox" in out
    assert "Step 2/3 : RUN echo one > /one" in out
    assert " ---> Running in " in out
    assert "Successfully built " in out
    assert "Successfully tagged first:latest" in out
    assert lines_of(engine, "first") == ["one"]
    assert engine.get("/containers/json?all=1") == []


def test_the_second_build_takes_every_step_from_the_cache(engine: RunningEngine, build: Build) -> None:
    text = "FROM busybox\nENV A=1\nCOPY a.txt /a\nRUN date +%N > /made\nWORKDIR /w\n"
    first = build(text, "-t", "cached", files={"a.txt": "a"}).stdout.decode()
    second = build(text, "-t", "cached").stdout.decode()
    assert "Using cache" not in first
    assert second.count("Using cache") == 4
    assert "Running in" not in second
    third = build(text, "-t", "cached", files={"a.txt": "b"}).stdout.decode()
    assert third.count("Using cache") == 1
    assert build(text, "--no-cache").stdout.decode().count("Using cache") == 0


def test_configuration(engine: RunningEngine, build: Build) -> None:
    build(
        "ARG base=busybox\nFROM $base AS final\nARG who=me\nENV A=$who B=${A:-none}\nLABEL l=$A\nEXPOSE 80 53/udp\n"
        'VOLUME /data\nUSER daemon\nWORKDIR /x\nWORKDIR y\nSTOPSIGNAL SIGINT\nSHELL ["/bin/sh", "-ec"]\n'
        "HEALTHCHECK --interval=5s CMD true\nCMD echo $A\nONBUILD RUN echo later\n",
        *("-t", "configured", "--build-arg", "who=you", "--label", "x=y"),
    )
    config = engine.get("/images/configured/json")["Config"]
    assert {"A=you", "B=none"} <= set(config["Env"])
    assert config["Labels"] == {"l": "you", "x": "y"} or config["Labels"] == {"l": "", "x": "y"}
    assert set(config["ExposedPorts"]) == {"80/tcp", "53/udp"}
    assert set(config["Volumes"]) == {"/data"}
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("daemon", "/x/y", "SIGINT")
    assert config["Cmd"] == ["/bin/sh", "-ec", "echo $A"]
    assert config["Healthcheck"]["Test"] == ["CMD-SHELL", "true"]
    assert config["Healthcheck"]["Interval"] == 5_000_000_000
    assert config["OnBuild"] == ["RUN echo later"]


def test_triggers_run_in_the_next_build(engine: RunningEngine, build: Build) -> None:
    build("FROM busybox\nONBUILD COPY a.txt /triggered\n", "-t", "with-trigger")
    out = build("FROM with-trigger\nCMD cat /triggered\n", "-t", "triggered", files={"a.txt": "now"}).stdout.decode()
    assert re.search(r"FROM with-trigger\n# Executing 1 build trigger\n ---> [0-9a-f]{12}\nStep 2/2", out), out
    assert lines_of(engine, "triggered") == ["now"]
    assert not engine.get("/images/triggered/json")["Config"].get("OnBuild")


def test_stages(engine: RunningEngine, build: Build) -> None:
    out = build(
        "FROM busybox AS unused\nRUN false\n"
        "FROM busybox AS made\nRUN mkdir /out && echo built > /out/file && ln -s file /out/link\n"
        "FROM scratch AS other\nCOPY a.txt /from-context\n"
        "FROM busybox\nCOPY --from=made /out /got/\nCOPY --from=other /from-context /\n"
        "COPY --from=made --chown=daemon:www-data --chmod=600 /out/file /owned\n",
        *("-t", "staged"),
        files={"a.txt": "context\n"},
    ).stdout.decode()
    assert "RUN false" not in out
    assert lines_of(engine, "staged", "cat", "/got/link", "/from-context") == ["built", "context"]
    assert lines_of(engine, "staged", "stat", "-c", "%U:%G %a", "/owned") == ["daemon:www-data 600"]


def test_copy_by_the_rules(engine: RunningEngine, build: Build) -> None:
    build(
        "FROM busybox\nWORKDIR /w\nCOPY dir .\nCOPY dir/a.txt new-name\nCOPY dir/a.txt into/\nCOPY *.txt /txt/\n"
        "COPY dir/sub /sub\nCOPY . /all\nCOPY one.txt optional* /some/\n"
        "COPY --parents --chown=33 --chmod=go= dir/./**/b.txt /deep\n",
        *("-t", "copied"),
        files={"dir/a.txt": "a", "dir/sub/b.txt": "b", "one.txt": "1", "two.txt": "2", ".dockerignore": "Dockerfile\n"},
    )
    found = lines_of(engine, "copied", "find", "/w", "/txt", "/sub", "/all", "/some", "/deep", "-type", "f")
    assert sorted(found) == [
        *("/all/.dockerignore", "/all/dir/a.txt", "/all/dir/sub/b.txt", "/all/one.txt", "/all/two.txt"),
        *("/deep/sub/b.txt", "/some/one.txt"),
        *("/sub/b.txt", "/txt/one.txt", "/txt/two.txt", "/w/a.txt", "/w/into/a.txt", "/w/new-name", "/w/sub/b.txt"),
    ]
    assert lines_of(engine, "copied", "stat", "-c", "%u:%g %a", "/deep/sub") == ["33:33 700"]


def test_add_unpacks_archives(engine: RunningEngine, build: Build, context: Path) -> None:
    (context / "inside.txt").write_text("inside")
    with tarfile.open(context / "files.tar.gz", "w:gz") as archive:
        archive.add(context / "inside.txt", "deep/inside.txt")
    build("FROM busybox\nADD files.tar.gz /unpacked\nCOPY files.tar.gz /kept/\n", "-t", "unpacked")
    assert lines_of(engine, "unpacked", "cat", "/unpacked/deep/inside.txt") == ["inside"]
    assert lines_of(engine, "unpacked", "ls", "/kept") == ["files.tar.gz"]


@pytest.mark.parametrize(
    ("dockerfile", "expected"),
    [
        ("FROM busybox\nRUN exit 3\n", "The command '/bin/sh -c exit 3' returned a non-zero code: 3"),
        ('FROM busybox\nRUN ["/nothing"]\n', "no such file or directory"),
        ("FROM busybox\nCOPY nothing /x\n", "file not found in build context or excluded by .dockerignore"),
        ("FROM busybox\nFORM x\n", "unknown instruction: FORM (did you mean FROM?)"),
        ("FROM busybox\nCOPY *.none [0-9] /x/\n", "COPY failed: no source files were specified"),
        ("FROM busybox\nCOPY a b c /x\n", "file not found in build context"),
        ("", "the Dockerfile (Dockerfile) cannot be empty"),
        ("FROM busybox\nUSER nobody-knows\nRUN true\n", "unable to find user nobody-knows"),
    ],
)
def test_mistakes(build: Build, dockerfile: str, expected: str) -> None:
    done = build(dockerfile, code=3 if "exit 3" in dockerfile else 1)
    assert expected in done.stderr.decode()


def test_dockerfiles_that_are_not_in_the_context(engine: RunningEngine, context: Path, tmp_path: Path) -> None:
    """From standard input, or from elsewhere with an ignore file of their own."""
    for name in ("one", "two", "three"):
        (context / name).touch()
    (context / ".dockerignore").write_text("one\n")
    text = "FROM busybox\nCOPY . /all\nRUN ls -A /all\n"
    done = engine.docker("build", "-f", "-", str(context), input=text.encode())
    assert b"\n.dockerignore\nthree\ntwo\n" in done.stdout, (done.stdout, done.stderr)
    (tmp_path / "Other").write_text(text)
    done = engine.docker("build", "--no-cache", "-f", str(tmp_path / "Other"), str(context))
    assert b"\n.dockerignore\nthree\ntwo\n" in done.stdout, (done.stdout, done.stderr)
    (context / "Other").write_text(text)
    (context / "Other.dockerignore").write_text("two\n.*\nOther*\n")
    (context / ".dockerignore").unlink()
    done = engine.docker("build", "--no-cache", "-f", str(context / "Other"), str(context))
    assert b"\none\nthree\n --->" in done.stdout, (done.stdout, done.stderr)


def test_options_of_the_platform(build: Build) -> None:
    """As dockerd on Linux has them."""
    text = "FROM busybox\nRUN ulimit -n\n"
    assert "\n77\n" in build(text, "--isolation", "default", "--ulimit", "nofile=77").stdout.decode()
    for options, expected in {
        ("--isolation", "hyperv"): 'unsupported isolation: "hyperv"',
        ("--security-opt", "seccomp=unconfined"): "does not support setting security options on build",
    }.items():
        assert expected in build(text, *options, code=1).stderr.decode()


def test_a_failing_step_is_shown_in_the_dockerfile(build: Build) -> None:
    out = build("FROM busybox\n\nRUN false\n", code=1).stdout.decode()
    assert "Dockerfile:3" in out
    assert "3 | >>> RUN false" in out


def test_a_mistake_of_the_language_is_shown_too(build: Build) -> None:
    errors = build("FROM busybox\n\nFORM x\nRUN true\n", code=1).stderr.decode()
    assert "dockerfile parse error on line 3: unknown instruction: FORM (did you mean FROM?)\nDockerfile:3\n" in errors
    assert "   1 |     FROM busybox\n   2 |     \n   3 | >>> FORM x\n   4 |     RUN true\n" in errors


def test_what_is_pruned(engine: RunningEngine, build: Build) -> None:
    build("FROM busybox\nRUN head -c 4096 /dev/zero > /zeros\n", "-t", "pruned")
    usage = engine.get("/system/df")["BuildCache"]
    assert any(entry["Size"] == 4096 and "zeros" in entry["Description"] for entry in usage)
    answer = engine.post("/build/prune", expect=200)
    assert answer["CachesDeleted"]
    assert engine.get("/system/df")["BuildCache"] == []
    assert lines_of(engine, "pruned", "stat", "-c", "%s", "/zeros") == ["4096"]


def test_quietly(engine: RunningEngine, build: Build) -> None:
    out = build("FROM busybox\nRUN echo hidden\n", "-q").stdout.decode()
    assert engine.get(f"/images/{out.strip()}/json")["Id"] == out.strip()


def test_the_stream_is_dockers(engine: RunningEngine, build: Build) -> None:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        text = b"FROM busybox\nRUN echo out; echo err >&2; exit 4\n"
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    status, answer = engine.request("POST", "/build?nocache=1", body.getvalue())
    assert status == 200
    lines = [json.loads(line) for line in answer.splitlines()]
    assert {"stream": "out\n"} in lines
    assert {"stream": "\x1b[91merr\n\x1b[0m"} in lines
    assert lines[-1]["errorDetail"] == {
        "code": 4,
        "message": "The command '/bin/sh -c echo out; echo err >&2; exit 4' returned a non-zero code: 4",
    }


def test_here_documents(engine: RunningEngine, build: Build) -> None:
    build(
        "FROM busybox\nARG who=me\nRUN <<EOF\necho one > /one\necho two > /two\nEOF\n"
        "RUN <<EOF\n#!/bin/cat\nprinted\nEOF\n"
        "COPY <<EOF <<'RAW' /files/\n$who\nEOF\n$who\nRAW\nCOPY <<-EOF /single\n\ttabs\n\tEOF\n",
        *("-t", "heredocs"),
    )
    found = lines_of(engine, "heredocs", "cat", "/one", "/two", "/files/EOF", "/files/RAW", "/single")
    assert found == ["one", "two", "me", "$who", "tabs"]


def test_mounts_of_a_command(engine: RunningEngine, build: Build) -> None:
    text = (
        "FROM busybox AS other\nRUN mkdir /d && echo staged > /d/file\nFROM busybox\n"
        "RUN --mount=type=bind,target=/ctx cp /ctx/a.txt /from-context && ! touch /ctx/x\n"
        "RUN --mount=type=bind,from=other,source=/d,target=/m,rw touch /m/new && cp /m/file /from-stage\n"
        "RUN --mount=type=bind,from=other,source=/d/file,target=/one cat /one >> /from-stage\n"
        "RUN --mount=type=tmpfs,target=/scratch,size=1m touch /scratch/x && grep '/scratch tmpfs' /proc/mounts\n"
        "RUN --mount=type=cache,target=/cache,id=tests date >> /cache/dates && wc -l < /cache/dates > /count\n"
        "RUN --mount=type=cache,target=/c,from=other,source=/d date >> /c/file && wc -l < /c/file >> /count\n"
        "RUN --mount=type=secret,id=none test ! -e /run/secrets/none\n"
    )
    build(text, "-t", "mounted", "--no-cache", files={"a.txt": "context\n"})
    assert lines_of(engine, "mounted", "cat", "/from-context", "/from-stage", "/count") == [
        *("context", "staged", "staged", "1", "2"),
    ]
    assert lines_of(engine, "mounted", "sh", "-c", "ls -d /ctx /m /one /scratch /cache 2>/dev/null || true") == []
    build(text, "-t", "mounted", "--no-cache")
    assert lines_of(engine, "mounted", "cat", "/count") == ["2", "3"]
    assert "Using cache" in build(text).stdout.decode()
    assert build(text, files={"a.txt": "changed\n"}).stdout.decode().count("Using cache") == 1
    out = build("FROM busybox\nRUN --mount=type=secret,id=none,required true\n", code=1)
    assert "secret none: not found" in out.stderr.decode()


def test_cache_from_images(engine: RunningEngine, build: Build) -> None:
    text = "FROM busybox\nENV FOO=bar\nRUN touch baz\nRUN touch bax\n"
    build(text, "-t", "cache1", "--no-cache")
    assert build(text, "--cache-from", "cache1").stdout.decode().count("Using cache") == 3
    assert build(text, "--cache-from", "nosuchtag").stdout.decode().count("Using cache") == 0


def test_limits_and_networks(engine: RunningEngine, build: Build) -> None:
    out = build(
        "FROM busybox\nRUN grep one.test /etc/hosts; df -k /dev/shm | tail -1; ulimit -n; cat /proc/net/dev | wc -l\n"
        "RUN --network=none test $(wc -l < /proc/net/dev) = 3\n",
        *("--add-host", "one.test:1.2.3.4", "--shm-size", "32m", "--ulimit", "nofile=123:123", "--no-cache"),
    ).stdout.decode()
    assert "1.2.3.4\tone.test" in out
    assert "32768" in out
    assert "\n123\n" in out


def test_a_source_date_makes_equal_images(engine: RunningEngine, build: Build) -> None:
    text = (
        "FROM busybox AS other\nRUN echo y > /y\nFROM busybox\nRUN echo x > /x && touch -d 2031-01-01 /later /bin\n"
        "COPY a.txt /sub/\nWORKDIR /made\nCOPY --link a.txt /linked/deep/\nCOPY --from=other /y /y\n"
    )
    ids = []
    for _ in range(2):
        build(text, "--no-cache", "-t", "dated", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", files={"a.txt": "same"})
        ids.append(engine.get("/images/dated/json")["Id"])
    assert ids[0] == ids[1]
    assert engine.get("/images/dated/json")["Created"].startswith("2001-09-09T01:46:40")
    saved = engine.docker("save", "dated").stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        newest = 0.0
        for layer in manifest["Layers"][1:]:
            with tarfile.open(fileobj=archive.extractfile(layer)) as files:
                newest = max(newest, *(entry.mtime for entry in files))
    assert newest == 1_000_000_000
