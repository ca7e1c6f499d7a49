"""Files from elsewhere: downloads and git repositories, as contexts of a build or as sources of ADD."""

from __future__ import annotations

import asyncio
import email.utils
import io
import logging
import os
import posixpath
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.dockerfile.git_reference import GitReference
from runtime.engine.build.context import Context
from runtime.errors import InvalidParameter, NotSupported, Unavailable

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30
READ_TIMEOUT_S = 300
DOWNLOADED_MODE = 0o600  # Dockerfile reference, "Adding files from a URL"
_CHUNK_BYTES = 1 << 18
_ERROR_TAIL_BYTES = 2000


async def download(url: str, context: Context, name: str = "") -> tuple[str, str]:
    """Puts what `url` names into the context, as `name` or what the URL calls it; that, and the content's type.

    Raises Unavailable, InvalidParameter for a URL that does not say a name.
    """
    return await asyncio.to_thread(_download, url, context, name)


def _download(url: str, context: Context, name: str) -> tuple[str, str]:
    import requests  # large, and hardly ever wanted

    name = name or posixpath.basename(unquote(urlsplit(url).path))
    if not name:
        raise InvalidParameter(f"cannot determine filename for source {url}")
    try:
        with requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response:
            if response.status_code >= 400:
                raise Unavailable(f"failed to GET {url} with status {response.status_code} {response.reason}")
            modified = (
                email.utils.parsedate_to_datetime(response.headers["Last-Modified"])
                if ("Last-Modified" in response.headers)
                else None
            )
            mtime_ns = int(modified.timestamp()) * 10**9 if modified else 0
            context.add_stream(name, response.iter_content(_CHUNK_BYTES), DOWNLOADED_MODE, mtime_ns)
            return name, response.headers.get("Content-Type", "").partition(";")[0].strip()
    except (requests.RequestException, ValueError) as error:
        raise Unavailable(f"cannot download {url}: {error}") from None


async def clone(reference: GitReference, context: Context, directory: Path) -> None:
    """Puts the files of a repository into the context. Raises NotSupported without git, Unavailable, InvalidParameter.

    Only what one commit has is fetched, by git, without hooks or prompts; submodules are left out.
    """
    if shutil.which("git") is None:
        raise NotSupported(f"{reference.remote}: git is needed for that: install it (on Debian: apt install git)")
    if reference.keep_git_dir:
        raise NotSupported(f"{reference.remote}: keeping .git is not supported by this version of Wherry: leave it out")
    if reference.submodules:
        raise NotSupported(f"{reference.remote}: submodules are not supported by this version of Wherry")
    for text in (reference.remote, reference.ref):
        if text.startswith("-"):
            raise InvalidParameter(f"invalid git reference {text!r}")
    with tempfile.TemporaryDirectory(dir=directory) as place:
        await _git(place, "init", "--quiet", "--bare")
        (Path(place) / "info").mkdir(exist_ok=True)
        (Path(place) / "info/attributes").write_text("* -export-ignore -export-subst\n")  # all of it, as it is
        wanted = reference.ref or "HEAD"
        await _git(place, "fetch", "--quiet", "--depth=1", reference.remote, wanted)
        commit = (await _git(place, "rev-parse", "FETCH_HEAD^{commit}")).decode().strip()
        if reference.checksum and not commit.startswith(reference.checksum):
            raise InvalidParameter(f"expected checksum to match {reference.checksum}, got {commit}")
        tree = f"{commit}:{reference.directory.strip('/')}" if reference.directory.strip("/") else commit
        archive = Path(place) / "files.tar"
        await _git(place, "archive", "--format=tar", f"--output={archive}", tree)
        with archive.open("rb") as stream:
            await asyncio.to_thread(context.receive, stream)


async def _git(place: str, *arguments: str) -> bytes:
    """What it prints. Cancelled, it is ended."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": place,
        "GIT_DIR": place,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https:ssh:git",
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
    }
    environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        *("git", *arguments),
        cwd=place,
        env=environment,
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


async def fill(context: Context, remote: str, git: GitReference | None, directory: Path) -> bytes | None:
    """The context that `remote` names; the Dockerfile when that is all it is. Raises what the others do."""
    if git is not None:
        await clone(git, context, directory)
        return None
    with Context(directory) as fetched:
        name, kind = await download(remote, fetched, posixpath.basename(urlsplit(remote).path) or "context")
        file = fetched.files[name]
        if kind.startswith("text/plain"):
            return fetched.read(file)
        stream: io.BufferedReader = fetched.open(file)
        try:
            await asyncio.to_thread(context.receive, stream)
        except InvalidParameter:
            raise InvalidParameter(
                f"remote context {remote}: neither a tar archive nor text/plain (it is {kind or 'of no type'})"
            ) from None
    return None
