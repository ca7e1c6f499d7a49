"""Git repositories as contexts of a build or sources of ADD, fetched and checked out by git.

BuildKit's rules: a branch is preferred to a tag of the same name, submodules come along, `.git` does not unless it is
asked for. No hooks, prompts, or configuration of this machine; only protocols that go over a network.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from runtime.container.rootpath import open_in
from runtime.content.tree import walk
from runtime.dockerfile.git_reference import GitReference
from runtime.engine.build.context import Context
from runtime.errors import InvalidParameter, NotSupported, Unavailable

log = logging.getLogger(__name__)

TOKEN, HEADER = "GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"  # secrets, as BuildKit calls them; with `.HOST` for one host
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMITS_BEGINNING = re.compile(r"[0-9a-f]{7,64}")
_CHUNK_BYTES = 1 << 18
_ERROR_TAIL_BYTES = 2000


async def clone(
    reference: GitReference, context: Context, directory: Path, secrets: Mapping[str, bytes] | None = None
) -> None:
    """Puts the files of a repository into the context. Raises NotSupported without git, Unavailable, InvalidParameter.

    `directory`: for a place to work in. `secrets` may have a token for the repository's host.
    """
    if shutil.which("git") is None:
        raise NotSupported(f"{reference.remote}: git is needed for that: install it (on Debian: apt install git)")
    for text in (reference.remote, reference.ref):
        if text.startswith("-"):
            raise InvalidParameter(f"invalid git reference {text!r}")
    with tempfile.TemporaryDirectory(dir=directory) as place:
        git = _Git(Path(place), _environment(Path(place), reference.remote, secrets or {}))
        await git.run("init", "--quiet", "--template=", "--initial-branch=master")
        await git.run("remote", "add", "origin", reference.remote)
        await _fetch(git, reference)
        commit = (await git.run("rev-parse", "FETCH_HEAD^{commit}")).decode().strip()
        if reference.checksum and not commit.startswith(reference.checksum):
            raise InvalidParameter(f"expected checksum to match {reference.checksum}, got {commit}")
        await git.run("checkout", "--quiet", "FETCH_HEAD")
        if reference.submodules is not False and (git.top / ".gitmodules").is_file():
            await _update_submodules(git)
        committed_s = int(await git.run("show", "--no-patch", "--format=%ct", "HEAD"))
        (git.top / ".git/FETCH_HEAD").unlink(missing_ok=True)  # differs from fetch to fetch
        await asyncio.to_thread(_take_in, git.top, reference, committed_s * 10**9, context)


async def _fetch(git: _Git, reference: GitReference) -> None:
    """The commit that is wanted as FETCH_HEAD, and a branch or tag as one of ours."""
    wanted = reference.ref or "HEAD"
    name = wanted if wanted == "HEAD" or _COMMIT.fullmatch(wanted) else await _full_name(git, wanted)
    if not name and _COMMITS_BEGINNING.fullmatch(wanted):
        await git.run("fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
        commit = (await git.run("rev-parse", "--verify", "--end-of-options", f"{wanted}^{{commit}}")).decode().strip()
        (git.top / ".git/FETCH_HEAD").write_text(f"{commit}\n")
        return
    refspec = f"+{name}:{name}" if name.startswith("refs/") else name or wanted
    await git.run_shallow("fetch", "--quiet", "--update-head-ok", "origin", refspec)


async def _full_name(git: _Git, wanted: str) -> str:
    """`refs/heads/x` or `refs/tags/x` for x, "" when the repository has neither."""
    lines = (await git.run("ls-remote", "origin", wanted)).decode("utf-8", "replace").splitlines()
    names = {line.partition("\t")[2] for line in lines}
    candidates = (f"refs/heads/{wanted}", f"refs/tags/{wanted}", wanted, f"refs/{wanted}")
    return next((name for name in candidates if name in names), "")


async def _update_submodules(git: _Git) -> None:
    await git.run_shallow("submodule", "--quiet", "update", "--init", "--recursive")


class _Git:
    def __init__(self, place: Path, environment: Mapping[str, str]) -> None:
        self.top = place / "files"
        self.top.mkdir()
        self._environment = environment

    async def run_shallow(self, *arguments: str) -> None:
        """With nothing but the newest commit, where the server can do that."""
        place = 4 if arguments[0] == "submodule" else 1
        try:
            await self.run(*arguments[:place], "--depth=1", *arguments[place:])
        except Unavailable as error:
            log.debug("git fetches everything: %s", error)
            await self.run(*arguments)

    async def run(self, *arguments: str) -> bytes:
        """What it prints. Cancelled, it is ended. Raises Unavailable with what it says."""
        process = await asyncio.create_subprocess_exec(
            *("git", *arguments),
            cwd=self.top,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, errors = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            reason = errors[-_ERROR_TAIL_BYTES:].decode(errors="replace").strip()
            raise Unavailable(f"git {arguments[0]} failed: {reason}")
        return out


def _environment(place: Path, remote: str, secrets: Mapping[str, bytes]) -> dict[str, str]:
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(place),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https:ssh:git",
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
    }
    environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    settings = {"advice.detachedHead": "false", "core.hooksPath": "/dev/null", **_authorization(remote, secrets)}
    for number, (name, value) in enumerate(settings.items()):  # not as arguments, which everybody can read
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return {**environment, "GIT_CONFIG_COUNT": str(len(settings))}


def _authorization(remote: str, secrets: Mapping[str, bytes]) -> dict[str, str]:
    url = urlsplit(remote)
    if url.scheme not in ("http", "https"):
        return {}
    given = {name: secrets.get(f"{name}.{url.hostname}", secrets.get(name)) for name in (TOKEN, HEADER)}
    header = (given[HEADER] or b"").decode("utf-8", "replace").strip()
    if token := (given[TOKEN] or b"").strip():
        header = f"basic {base64.b64encode(b'x-access-token:' + token).decode()}"
    return {f"http.{url.scheme}://{url.netloc}/.extraheader": f"Authorization: {header}"} if header else {}


def _take_in(top: Path, reference: GitReference, mtime_ns: int, context: Context) -> None:
    """The files checked out, or a directory of them. Raises InvalidParameter without that directory."""
    top_fd = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        wanted_fd = open_in(top_fd, "/" + reference.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidParameter(
            f"{reference.remote}: there is no directory {reference.directory} in the repository"
        ) from None
    finally:
        os.close(top_fd)
    try:
        for node in walk(wanted_fd):
            if ".git" in node.path.split("/") and not reference.keep_git_dir:
                continue
            mode = 0o755 if node.info.st_mode & 0o111 else 0o644
            if stat.S_ISDIR(node.info.st_mode):
                context.add_directory(node.path, mode, mtime_ns)
            elif stat.S_ISLNK(node.info.st_mode):
                context.add_symlink(node.path, os.readlink(node.name, dir_fd=node.parent_fd), mtime_ns)
            else:
                fd = os.open(node.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=node.parent_fd)
                context.add_stream(node.path, _chunks(fd), mode, mtime_ns)
    finally:
        os.close(wanted_fd)


def _chunks(fd: int) -> Iterator[bytes]:
    """All of a file, which is closed."""
    with open(fd, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
