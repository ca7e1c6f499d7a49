"""One repository of a registry: manifests, tags and blobs (OCI distribution-spec, "Endpoints")."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3

from runtime.errors import Cancelled, InvalidParameter
from runtime.oci import digest
from runtime.oci.image import INDEX_TYPES, MANIFEST, MANIFEST_TYPES
from runtime.oci.reference import Reference
from runtime.registry.cancellation import Cancellation
from runtime.registry.errors import BLOB_UNKNOWN, RegistryError
from runtime.registry.hosts import Endpoint, RegistrySettings
from runtime.registry.transport import Credentials, Transport, read_all, unreachable

DOCUMENT_BYTES_MAX = 8 << 20
ATTEMPTS = 5
CHUNKED_FROM_BYTES = 128 << 20  # proxies before registries refuse what is much larger in one piece
UPLOAD_CHUNK_BYTES = 64 << 20
_TAG_PAGES_MAX = 1000
_SCHEMA1_TYPES = (
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
)
_ACCEPT = ", ".join([*sorted(MANIFEST_TYPES | INDEX_TYPES), _SCHEMA1_TYPES[0]])
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')

Result = TypeVar("Result")
OnBytes = Callable[[int], None]
OnRetry = Callable[[float], None]
_schemes: dict[str, str] = {}  # of hosts that may have either: what answered last


@dataclass(frozen=True)
class Fetched:
    """A manifest or an index as the registry has it; `data` is empty when only asked about."""

    data: bytes
    media_type: str
    digest: str
    size_bytes: int


def pull_scope(path: str) -> str:
    return f"repository:{path}:pull"


def push_scope(path: str) -> str:
    return f"repository:{path}:pull,push"


class Repository:
    """Use in `with`. The first endpoint that answers serves everything after it."""

    def __init__(
        self,
        reference: Reference,
        credentials: Credentials,
        settings: RegistrySettings,
        cancellation: Cancellation,
        pushing: bool = False,
    ) -> None:
        self.reference = reference
        self._path = reference.path
        self._settings = settings
        self._credentials = credentials
        self._cancellation = cancellation
        self._endpoints = _known_first(settings.endpoints(reference.domain, not pushing))
        self._transport: Transport | None = None
        self._scope = push_scope(self._path) if pushing else pull_scope(self._path)

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._transport:
            self._transport.close()

    # --- manifests and tags -------------------------------------------------------------------------------

    def describe(self, name: str) -> Fetched | None:
        """What tag or digest `name` stands for, without its content; None if the registry does not say."""
        response = self._ask("HEAD", f"manifests/{name}", headers={"Accept": _ACCEPT})
        with response:
            found = response.headers.get("Docker-Content-Digest", "")
            length = response.headers.get("Content-Length", "")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if not digest.is_digest(found) or not length.isdigit():
            return None
        return Fetched(b"", media_type, found, int(length))

    def manifest(self, name: str) -> Fetched:
        """Raises RegistryError, InvalidParameter when it is not what its digest says."""
        response = self._ask("GET", f"manifests/{name}", headers={"Accept": _ACCEPT})
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        data = self._document(response, f"the manifest of {self.reference.familiar()}")
        found = digest.of_bytes(data, name.partition(":")[0]) if ":" in name else digest.of_bytes(data)
        if ":" in name and found != name:
            raise InvalidParameter(f"manifest verification failed for digest {name}: the registry sent {found}")
        media_type = _declared_type(data) or media_type
        if media_type in _SCHEMA1_TYPES:
            raise InvalidParameter(
                "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has "
                f"been removed. Suggest the author of {self.reference.familiar()} to upgrade the image to the OCI "
                "Format or Docker Image manifest v2, schema 2."
            )
        return Fetched(data, media_type, found, len(data))

    def tags(self) -> list[str]:
        found: list[str] = []
        path: str | None = "tags/list"
        for _ in range(_TAG_PAGES_MAX):
            if path is None:
                break
            response = self._ask("GET", path)
            link = _NEXT.search(response.headers.get("Link", ""))
            document = json.loads(self._document(response, "the list of tags"))
            found += [tag for tag in document.get("tags") or [] if isinstance(tag, str)]
            path = link[1] if link else None
        return found

    def put_manifest(self, name: str, data: bytes, media_type: str = MANIFEST) -> None:
        headers = {"Content-Type": media_type}
        self._ask("PUT", f"manifests/{name}", data=data, headers=headers, expect=(200, 201, 202)).close()

    # --- blobs, downwards ---------------------------------------------------------------------------------

    def document(self, blob: str, size_bytes: int) -> bytes:
        """A small blob, verified. Raises RegistryError, InvalidParameter."""
        if size_bytes > DOCUMENT_BYTES_MAX:
            raise InvalidParameter(f"the document {blob} is larger than {DOCUMENT_BYTES_MAX >> 20} MiB")

        def fetch() -> bytes:
            return self._document(self._ask("GET", f"blobs/{blob}", retry=False), f"the document {blob}")

        data = self.retrying(fetch)
        if digest.of_bytes(data) != blob or len(data) != size_bytes:
            raise InvalidParameter(
                f"image config verification failed for digest {blob}: the registry sent {digest.of_bytes(data)}, "
                f"{len(data)} bytes instead of {size_bytes}"
            )
        return data

    def open_blob(self, blob: str, offset: int = 0) -> requests.Response:
        """From `offset` on where the registry can (status 206)."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        return self._ask("GET", f"blobs/{blob}", headers=headers, expect=(200, 206), retry=False)

    # --- blobs, upwards -----------------------------------------------------------------------------------

    def has_blob(self, blob: str) -> bool:
        try:
            self._ask("HEAD", f"blobs/{blob}").close()
        except RegistryError as error:
            if error.status == 404:
                return False
            raise
        return True

    def mount(self, blob: str, source: str) -> str | None:
        """Takes the blob from the repository `source` of the same registry; else where to upload it to."""
        scope = f"{self._scope} {pull_scope(source)}"
        query = f"mount={quote(blob, safe='')}&from={quote(source, safe='')}"
        try:
            response = self._ask("POST", f"blobs/uploads/?{query}", scope=scope, expect=(201, 202))
        except RegistryError as error:
            if error.status in (401, 403, 404):
                return self.begin_upload()
            raise
        with response:
            return None if response.status_code == 201 else self._location(response)

    def begin_upload(self) -> str:
        with self._ask("POST", "blobs/uploads/", expect=(202,)) as response:
            return self._location(response)

    def upload(self, location: str, blob: str, size_bytes: int, file: IO[bytes], on_bytes: OnBytes) -> None:
        """In one piece, or in several when it is large; one that breaks off is gone on with where the registry can."""
        offset = 0
        if size_bytes >= CHUNKED_FROM_BYTES:
            while offset < size_bytes:
                count = min(UPLOAD_CHUNK_BYTES, size_bytes - offset)
                location, offset = self._patch(location, offset, count, file, on_bytes)
        rest = _Part(file, offset, size_bytes - offset, on_bytes, self._cancellation)
        separator = "&" if "?" in location else "?"
        url = f"{location}{separator}digest={quote(blob, safe='')}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(rest))}
        self._ask("PUT", url, data=rest if len(rest) else b"", headers=headers, expect=(201, 204), retry=False).close()

    def _patch(self, location: str, offset: int, count: int, file: IO[bytes], on_bytes: OnBytes) -> tuple[str, int]:
        """Where the next piece goes to, and the offset it begins at. Raises RegistryError: the upload is begun anew."""
        part = _Part(file, offset, count, on_bytes, self._cancellation)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(count),
            "Content-Range": f"{offset}-{offset + count - 1}",
        }
        try:
            response = self._ask("PATCH", location, data=part, headers=headers, expect=(202, 204), retry=False)
        except RegistryError as error:
            if not error.may_pass and error.status != 416:
                raise
            with contextlib.suppress(RegistryError):  # distribution does not know an upload again that broke off
                location, got = self._progress_of(location)
                if got > offset:  # some of the piece has arrived
                    return location, min(got, offset + count)
            raise RegistryError(f"an upload was broken off: {error}") from error
        with response:
            return self._location(response), offset + count

    def _progress_of(self, location: str) -> tuple[str, int]:
        with self._ask("GET", location, expect=(202, 204), retry=False) as response:
            last = response.headers.get("Range", "").rpartition("-")[2]
            return self._location(response), int(last) + 1 if last.isdigit() and last != "0" else 0

    def _location(self, response: requests.Response) -> str:
        location = response.headers.get("Location", "")
        if not location:
            raise RegistryError("the registry does not say where to upload to", "UNKNOWN", response.status_code)
        return urljoin(response.url, location)

    # --- asking -------------------------------------------------------------------------------------------

    def retrying(self, work: Callable[[], Result], on_retry: OnRetry | None = None) -> Result:
        """Again after failures that may pass, later each time."""
        delay_s = self._settings.retry_delay_s
        for attempt in range(1, ATTEMPTS + 1):
            self._cancellation.check()
            try:
                return work()
            except RegistryError as error:
                if attempt == ATTEMPTS or not error.may_pass:
                    raise
            if on_retry:
                on_retry(delay_s)
            self._cancellation.wait(delay_s)
            delay_s *= 2
        raise AssertionError("the last attempt returns or raises")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        scope: str = "",
        headers: dict[str, str] | None = None,
        data: object = None,
        expect: tuple[int, ...] = (200,),
        retry: bool = True,
    ) -> requests.Response:
        url = path if path.startswith(("http://", "https://", "/")) else f"/v2/{self._path}/{path}"

        def ask(attempt: int = 1) -> requests.Response:
            try:
                return self._transport_for(url).request(
                    method,
                    url,
                    scope=scope or self._scope,
                    expect=expect,
                    headers=headers or {},
                    data=data,
                    allow_redirects=method in ("GET", "HEAD"),
                )
            except RegistryError as error:
                if error.retry_after_s is None or attempt == ATTEMPTS:
                    raise
                self._cancellation.wait(error.retry_after_s)
            if rewind := getattr(data, "rewind", None):
                rewind()
            return ask(attempt + 1)

        if self._transport is None:
            return self._first(ask)
        return self.retrying(ask) if retry else ask()

    def _transport_for(self, url: str) -> Transport:
        if self._transport is None:
            self._transport = Transport(self._endpoints[0], self._credentials, self._settings)
        return self._transport

    def _first(self, ask: Callable[[], requests.Response]) -> requests.Response:
        """Tries the endpoints in turn; mirrors may also simply not have it."""
        while True:
            endpoint, others = self._endpoints[0], self._endpoints[1:]
            try:
                response = ask()
            except RegistryError as error:
                if not others or (error.status and not endpoint.is_mirror):
                    raise
                if self._transport:
                    self._transport.close()
                self._transport, self._endpoints = None, others
                self._cancellation.check()
                continue
            _schemes[endpoint.host] = urlsplit(endpoint.url).scheme
            return response

    def _document(self, response: requests.Response, what: str) -> bytes:
        data = read_all(response, DOCUMENT_BYTES_MAX)
        if len(data) > DOCUMENT_BYTES_MAX:
            raise InvalidParameter(f"{what} is larger than {DOCUMENT_BYTES_MAX >> 20} MiB")
        return data


def _known_first(endpoints: list[Endpoint]) -> list[Endpoint]:
    def rank(endpoint: Endpoint) -> tuple[bool, bool]:
        return not endpoint.is_mirror, not endpoint.url.startswith(f"{_schemes.get(endpoint.host, 'https')}:")

    return sorted(endpoints, key=rank)


def _declared_type(data: bytes) -> str:
    try:
        document = json.loads(data)
        if document.get("schemaVersion") == 1:
            return _SCHEMA1_TYPES[0]
        return str(document.get("mediaType") or "")
    except (ValueError, AttributeError, RecursionError):
        return ""


class BlobReader:
    """A blob as a file to read once. A connection that breaks is taken up where it broke off (RFC 9110, "Range")."""

    def __init__(
        self,
        repository: Repository,
        blob: str,
        size_bytes: int,
        cancellation: Cancellation,
        on_bytes: OnBytes,
        on_retry: OnRetry,
    ) -> None:
        self._repository = repository
        self._blob = blob
        self._size_bytes = size_bytes
        self._cancellation = cancellation
        self._on_bytes = on_bytes
        self._on_retry = on_retry
        self._offset = 0
        self._failures = 0
        self._response: requests.Response | None = None

    def close(self) -> None:
        if self._response is not None:
            self._cancellation.unwatch(self)
            self._response.close()
            self._response = None

    def read(self, size: int = -1, /) -> bytes:
        """Raises RegistryError, InvalidParameter when it is longer than it should be, Cancelled."""
        while True:
            self._cancellation.check()
            try:
                if self._response is None:
                    self._open()
                data = self._read(size)
            except RegistryError as error:
                self.close()
                self._failures += 1
                if self._failures >= ATTEMPTS or not error.may_pass:
                    raise
                delay_s = self._repository._settings.retry_delay_s * 2 ** (self._failures - 1)
                self._on_retry(delay_s)
                self._cancellation.wait(delay_s)
                continue
            if data:
                self._failures = 0
                self._offset += len(data)
                if self._offset > self._size_bytes:
                    raise self._wrong_size("more")
                self._on_bytes(self._offset)
            return data

    def _read(self, size: int) -> bytes:
        if self._offset >= self._size_bytes:
            return self._receive(1, expect_more=False)
        return self._receive(size)

    def _receive(self, size: int, expect_more: bool = True) -> bytes:
        """From the connection that is open. Raises RegistryError when it ends while more is expected."""
        assert self._response is not None
        try:
            data: bytes = self._response.raw.read(size if size >= 0 else None, decode_content=False)
        except urllib3.exceptions.IncompleteRead as error:
            self._cancellation.check()  # closed under us
            raise unreachable("GET", self._response.url, EOFError("unexpected EOF")) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            self._cancellation.check()
            raise unreachable("GET", self._response.url, error) from error
        if not data and expect_more:
            self._cancellation.check()
            raise unreachable("GET", self._response.url, EOFError("unexpected EOF"))
        return data

    def _open(self) -> None:
        response = self._repository.open_blob(self._blob, self._offset)
        self._response = response
        self._cancellation.watch(self, lambda: _shut(response))
        if response.status_code == 206:
            start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(self._offset):
                raise RegistryError(
                    f"the registry sent another part of {self._blob} than was asked for", "UNKNOWN", 206
                )
            return
        declared = response.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) != self._size_bytes:
            raise self._wrong_size("more" if int(declared) > self._size_bytes else "fewer")
        left = self._offset  # it does not know Range: what is there already comes again
        while left:
            left -= len(self._receive(min(left, 1 << 18)))

    def _wrong_size(self, than: str) -> InvalidParameter:
        return InvalidParameter(
            f"filesystem layer verification failed for digest {self._blob}: the registry sent {than} than the "
            f"{self._size_bytes} bytes its manifest names"
        )


def _shut(response: requests.Response) -> None:
    """Ends a read in another thread."""
    try:
        response.raw.shutdown()
    except (OSError, ValueError, RuntimeError, AttributeError):
        pass  # nothing is being read


class _Part:
    """A part of a file as a request's body; may be sent again."""

    def __init__(
        self, file: IO[bytes], offset: int, size_bytes: int, on_bytes: OnBytes, cancellation: Cancellation
    ) -> None:
        self._file = file
        self._offset = offset
        self._size_bytes = size_bytes
        self._on_bytes = on_bytes
        self._cancellation = cancellation
        self.rewind()

    def rewind(self) -> None:
        self._left = self._size_bytes
        self._file.seek(self._offset)

    def __len__(self) -> int:
        return self._size_bytes

    def read(self, size: int = -1) -> bytes:
        if self._cancellation:
            raise Cancelled("the client went away")
        wanted = self._left if size < 0 else min(max(size, 1 << 18), self._left)
        data = self._file.read(wanted)
        self._left -= len(data)
        if data:
            self._on_bytes(self._offset + self._size_bytes - self._left)
        return data


__all__ = ["BLOB_UNKNOWN", "BlobReader", "Fetched", "Repository"]
