"""Git repositories as contexts and as sources of ADD: what of them gets into an image."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.engine.test_build import build, wait_for
from tests.harness import RunningEngine

pytestmark = [
    pytest.mark.usefixtures("nothing_built_stays"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]

LIST = "RUN cd /added && find . -name .git -prune -o -type f -print | sort && cat name"


@dataclass
class Repositories:
    """`main.git` has the branch trunk, the branch and the tag `twice`, and the submodule `module`."""

    directory: Path
    url: str
    first: str


def _git(directory: Path, *arguments: str) -> str:
    always = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *always, *arguments], cwd=directory, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repositories]:
    top = tmp_path_factory.mktemp("repositories")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"git://127.0.0.1:{port}"
    for name in ("module", "main"):
        (top / name).mkdir()
        _git(top / name, "init", "--quiet", "--initial-branch=trunk")
        (top / name / "name").write_text(f"{name}\n")
        _git(top / name, "add", ".")
        _git(top / name, "commit", "--quiet", "-m", "first")
    main = top / "main"
    first = _git(main, "rev-parse", "HEAD")
    _git(main, "tag", "-a", "-m", "a tag", "twice")
    _git(main, "checkout", "--quiet", "-b", "twice")
    (main / "name").write_text("branch\n")
    _git(main, "commit", "--quiet", "-a", "-m", "branch")
    _git(main, "checkout", "--quiet", "trunk")
    (main / "sub").mkdir()
    (main / "sub/Dockerfile").write_text("FROM busybox\nCOPY . /added\n")
    (main / "sub/program").touch(mode=0o700)
    (main / "Dockerfile").write_text("FROM busybox\nCOPY . /added\nRUN ls -A /added\n")
    (main / "link").symlink_to("sub/program")
    _git(main, "submodule", "--quiet", "add", str(top / "module"), "module")
    _git(main, "config", "--file=.gitmodules", "submodule.module.url", f"{url}/module.git")
    _git(main, "add", ".")
    _git(main, "commit", "--quiet", "-m", "second")
    for name in ("module", "main"):
        subprocess.run(["git", "clone", "-q", "--bare", name, f"{name}.git"], cwd=top, check=True)
        _git(top / f"{name}.git", "update-server-info")
    command = ["git", "daemon", "--export-all", "--listen=127.0.0.1", f"--port={port}", f"--base-path={top}"]
    daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(answers)
        yield Repositories(top, url, first)
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait()


def of_remote(engine: RunningEngine, remote: str, query: str = "") -> str:
    status, answer = engine.request("POST", f"/build?remote={quote(remote, safe='')}&{query}", timeout_s=60)
    return "".join(json.loads(line).get("stream", line.decode()) for line in answer.splitlines()) + str(status)


def test_contexts(engine: RunningEngine, repositories: Repositories) -> None:
    url = f"{repositories.url}/main.git"
    told = of_remote(engine, f"{url}#trunk", "nocache=1")
    assert ".gitmodules\nDockerfile\nlink\nmodule\nname\nsub\n" in told
    told = of_remote(engine, url, f"buildargs={quote(json.dumps({'BUILDKIT_CONTEXT_KEEP_GIT_DIR': '1'}))}")
    assert "\n.git\n.gitmodules\n" in told.replace(" ", "\n")
    assert "Successfully tagged" in of_remote(engine, f"{url}#trunk:sub", "t=below")
    assert "there is no directory nowhere" in of_remote(engine, f"{url}#:nowhere")
    assert "there is no directory ../.." in of_remote(engine, f"{url}#:../../name")


def test_what_is_added(engine: RunningEngine, repositories: Repositories) -> None:
    url, first = f"{repositories.url}/main.git", repositories.first

    def added(reference: str, *flags: str, more: str = LIST) -> str:
        text = f"FROM busybox\nADD {' '.join(flags)} {url}{reference} /added\n{more}\n"
        return "".join(str(line.get("stream", line)) for line in build(engine, text, "nocache=1"))

    assert "./.gitmodules\n./Dockerfile\n./module/name\n./name\n./sub/Dockerfile\n./sub/program\nmain\n" in added("")
    assert "./name\nbranch\n" in added("#twice")  # as git-checkout, the branch
    assert "./name\nmain\n" in added("#refs/tags/twice")
    assert "./name\nmain\n" in added("?tag=twice")
    assert "./name\nmain\n" in added(f"#{first}")
    assert "./name\nmain\n" in added(f"#{first[:9]}")
    assert "./name\nmain\n" in added("#refs/tags/twice", f"--checksum={first}")
    assert "expected checksum to match" in added("", f"--checksum={first}")
    assert "./module/name" not in added("?submodules=false")
    kept = added("", "--keep-git-dir=true", more="RUN cat /added/.git/config /added/.git/HEAD")
    assert f"url = {url}\n" in kept
    assert _git(repositories.directory / "main", "rev-parse", "trunk") in kept
    assert "755 644 sub/program" in added(
        "", more='RUN cd /added && echo "$(stat -c %a sub/program) $(stat -c %a name) $(readlink link)"'
    )
    assert "git fetch failed" in added("#nothing")


def test_a_token_is_for_its_host_and_nobody_else(engine: RunningEngine, repositories: Repositories) -> None:
    """And a server that is nothing but files, which knows no shallow fetches."""
    expected = f"basic {base64.b64encode(b'x-access-token:hush').decode()}"

    class Guarded(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") == expected:
                super().do_GET()
            else:
                self.send_error(403)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    handler = functools.partial(Guarded, directory=str(repositories.directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        remote = quote(f"http://127.0.0.1:{server.server_address[1]}/main.git", safe="")
        for id, message in (("GIT_AUTH_TOKEN", b"Successfully built"), ("GIT_AUTH_TOKEN.example.com", b"403")):
            secrets = base64.urlsafe_b64encode(json.dumps({id: base64.b64encode(b"hush").decode()}).encode())
            headers = {"X-Wherry-Secrets": secrets.decode()}
            _, answer = engine.request("POST", f"/build?remote={remote}", headers=headers, timeout_s=60)
            assert message in answer and b"hush" not in answer, answer
    finally:
        server.shutdown()
        server.server_close()
