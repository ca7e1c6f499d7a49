"""Files from elsewhere: downloads as sources of ADD, downloads and repositories as contexts of a build."""

from __future__ import annotations

import asyncio
import email.utils
import io
import posixpath
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.dockerfile.git_reference import GitReference
from runtime.engine.build.context import Context
from runtime.engine.build.repositories import clone
from runtime.errors import InvalidParameter, Unavailable

CONNECT_TIMEOUT_S = 30
READ_TIMEOUT_S = 300
DOWNLOADED_MODE = 0o600  # Dockerfile reference, "Adding files from a URL"
DOCKERFILE_BYTES_MAX = 4 << 20
_CHUNK_BYTES = 1 << 18


async def download(url: str, context: Context, name: str = "") -> tuple[str, str]:
    """Puts what `url` names into the context, as `name` or what the URL calls it; that, and the content's type.

    Raises Unavailable, InvalidParameter for a URL that does not say a name.
    """
    return await asyncio.to_thread(_download, url, context, name)


def _download(url: str, context: Context, name: str) -> tuple[str, str]:
    import requests  # large, and hardly ever wanted

    from runtime.registry.transport import unreachable

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
    except requests.exceptions.SSLError as error:
        raise Unavailable(f"cannot download {url}: {error}") from None
    except (requests.RequestException, ValueError) as error:
        raise Unavailable(str(unreachable("get", url, error))) from None


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


async def fill(
    context: Context, remote: str, git: GitReference | None, directory: Path, secrets: Mapping[str, bytes]
) -> bytes | None:
    """The context that `remote` names; the Dockerfile when that is all it is. Raises what the others do."""
    if git is not None:
        await clone(git, context, directory, secrets)
        return None
    with Context(directory) as fetched:
        name, kind = await download(remote, fetched, posixpath.basename(urlsplit(remote).path) or "context")
        file = fetched.files[name]
        if file.size <= DOCKERFILE_BYTES_MAX and _is_text(text := fetched.read(file)):  # whatever type the server says
            return text
        stream: io.BufferedReader = fetched.open(file)
        try:
            await asyncio.to_thread(context.receive, stream)
        except InvalidParameter:
            raise InvalidParameter(
                f"remote context {remote}: neither a tar archive nor a Dockerfile (it is {kind or 'of no type'})"
            ) from None
    return None
