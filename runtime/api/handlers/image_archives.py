"""Images from and to archives: load, import and save (Engine API, "Image")."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TypeVar

from runtime.api import wire
from runtime.api.errors import message_of
from runtime.api.handlers import registries
from runtime.api.http1 import Answer, Request, StreamResponse
from runtime.api.router import Route
from runtime.api.thread_streams import body_file, produced
from runtime.content.archive import Writable
from runtime.content.image import Image, LoadedImage
from runtime.engine.distribution.progress import Feed
from runtime.engine.engine import Engine
from runtime.errors import InvalidParameter, NotFound, WherryError
from runtime.oci import digest
from runtime.oci.image import Platform, parse_platform, platform_matches, platform_text

log = logging.getLogger(__name__)

JSON = {"Content-Type": "application/json"}
TAR = {"Content-Type": "application/x-tar"}

Result = TypeVar("Result")


async def load(engine: Engine, request: Request) -> Answer:
    platforms = [wire.platform_of(text) for text in request.query.texts("platform")]
    if len(platforms) > 1:
        raise InvalidParameter("images are loaded for one platform at a time: give platform once")
    loading = _Loading(engine, request.query.flag("quiet", True), platforms[0] if platforms else None)
    await loading.begin(request)
    return StreamResponse(loading.lines(), headers=JSON)


class _Loading:
    """One archive on its way in. Told of when all of it has arrived, as by moby, and so are failures: with 200."""

    def __init__(self, engine: Engine, quiet: bool, platform: Platform | None) -> None:
        self._engine = engine
        self._quiet = quiet
        self._platform = platform
        self._feed = Feed()
        self._last = b""

    async def begin(self, request: Request) -> None:
        """Returns when the body has been read, or nobody reads it any more."""
        arrived = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in request.body_chunks():
                yield chunk
            arrived.set()

        self._work = asyncio.ensure_future(self._run(body_file(chunks())))
        arriving = asyncio.ensure_future(arrived.wait())
        await asyncio.wait((self._work, arriving), return_when=asyncio.FIRST_COMPLETED)
        arriving.cancel()

    async def _run(self, stream: io.BufferedReader) -> None:
        try:
            tell = None if self._quiet else self._count
            loaded = await asyncio.to_thread(self._engine.images.load, stream, tell, self._platform)
        except Exception as error:
            if not isinstance(error, WherryError | OSError):
                log.exception("an archive was not loaded")
            self._last = wire.error_line(message_of(error))
        else:
            for entry in loaded:
                self._engine.image_service.publish("load", entry.image, entry.image.id)
            said = [line for entry in loaded for line in _said_of(entry)]
            said += [f"Loaded image ID: {entry.image.id}" for entry in loaded if not entry.references]
            self._last = b"".join(wire.message_line({"stream": f"{line}\n"}) for line in said)
        finally:
            self._feed.end()

    def _count(self, blob: str, current_bytes: int, total_bytes: int) -> None:
        self._feed.count("Loading layer", digest.hex_of(blob)[:12], current_bytes, total_bytes)

    async def lines(self) -> AsyncIterator[bytes]:
        async for batch in self._feed.batches():
            yield wire.progress_lines(batch)
        yield self._last


def _said_of(loaded: LoadedImage) -> Iterator[str]:
    for reference in loaded.references:
        if owner := loaded.taken_from.get(reference):
            yield f"The image {reference} already exists, renaming the old one with ID {owner} to empty string"
        yield f"Loaded image: {reference}"


async def create(engine: Engine, request: Request) -> Answer:
    """`fromImage` pulls; `fromSrc` imports a root file system: the body (`-`) or what a URL leads to."""
    if request.query.text("fromImage"):
        return await registries.pull(engine, request)
    source, repository, tag = (request.query.text(name) for name in ("fromSrc", "repo", "tag"))
    if not source:
        raise InvalidParameter("nothing to create an image from: give fromImage or fromSrc")
    reference = f"{repository}:{tag}" if repository and tag else repository or None
    changes, message = request.query.texts("changes"), request.query.text("message")
    platform = parse_platform(text) if (text := request.query.text("platform")) else None

    def add(stream: io.BufferedReader, origin: str) -> Image:
        said = message or f"Imported from {origin}"
        return engine.images.import_tar(stream, reference, changes, said, platform)

    if source == "-":
        image = await _feed_thread(request, lambda stream: add(stream, "-"))
        first = b""
    else:
        url = source if "://" in source else f"http://{source}"
        if not url.startswith(("http://", "https://")):
            raise InvalidParameter(f'"{source}" cannot be imported: give an http or https URL, or - for the body')
        image = await asyncio.to_thread(_fetch, engine, url, lambda stream: add(stream, url))
        first = wire.message_line({"status": f"Downloading from {url}"})
    engine.image_service.publish("import", image, image.references[0] if image.references else image.id)
    return StreamResponse(_once(first + wire.message_line({"status": image.id})), headers=JSON)


def _fetch(engine: Engine, url: str, work: Callable[[io.BufferedReader], Result]) -> Result:
    from runtime.registry.download import opened

    with opened(url, engine.settings.registries) as stream:
        return work(stream)


async def save_many(engine: Engine, request: Request) -> Answer:
    names = [name for text in request.query.texts("names") for name in text.split(",")]
    return _save(engine, request, [name for name in names if name])


async def save_one(engine: Engine, request: Request) -> Answer:
    return _save(engine, request, [request.params["name"]])


def _save(engine: Engine, request: Request, names: Sequence[str]) -> Answer:
    if not names:
        raise InvalidParameter("no image was named")
    chosen = engine.images.chosen(names)  # says what is missing while there is still a status to say it with
    for text in request.query.texts("platform"):
        wanted = wire.platform_of(text)
        for image, _ in chosen:
            if not platform_matches(wanted, image.platform):
                raise NotFound(f"no suitable export target found for platform {platform_text(wanted)}: {image.id}")

    async def write(out: Writable) -> None:
        await asyncio.to_thread(engine.images.save, names, out)
        for image, references in chosen:
            name = references[0].familiar() if references else image.id
            engine.image_service.publish("save", image, name)

    return StreamResponse(produced(write), headers=TAR)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _feed_thread(request: Request, work: Callable[[io.BufferedReader], Result]) -> Result:
    """Run `work` on the body in a worker thread; raises what it raises."""
    return await asyncio.to_thread(work, body_file(request.body_chunks()))


ROUTES: list[Route] = [
    ("POST", "/images/load", load),
    ("POST", "/images/create", create),
    ("GET", "/images/get", save_many),
    ("GET", "/images/{name:path}/get", save_one),
]
