"""/containers/{id}/archive, export and changes, and /commit: see the Engine API, "Container" and "Image"."""

from __future__ import annotations

import base64
import json

from runtime.api import wire
from runtime.api.http1 import Answer, Request, Response, StreamResponse
from runtime.api.router import Route, empty_response, json_response
from runtime.api.thread_streams import body_file, produced
from runtime.api.wire import bodies
from runtime.engine.container_files import PathStat
from runtime.engine.engine import Engine
from runtime.errors import InvalidParameter

TAR = "application/x-tar"
STAT_HEADER = "X-Docker-Container-Path-Stat"


async def _stat(engine: Engine, request: Request) -> PathStat:
    called = request.params["id"]
    return await engine.files.stat(engine.containers.get(called), _path(request), called)


def _path(request: Request) -> str:
    path = request.query.text("path")
    if not path:
        raise InvalidParameter("missing required parameter: path")
    if "\0" in path:
        raise InvalidParameter(f"invalid path {path!r}: it holds a NUL byte")
    return path


def _stat_header(found: PathStat) -> dict[str, str]:
    return {STAT_HEADER: base64.b64encode(json.dumps(wire.path_stat(found)).encode()).decode()}


async def head_archive(engine: Engine, request: Request) -> Answer:
    return Response(200, headers=_stat_header(await _stat(engine, request)))


async def get_archive(engine: Engine, request: Request) -> Answer:
    found = await _stat(engine, request)
    called, path = request.params["id"], request.query.text("path")
    container = engine.containers.get(called)
    chunks = produced(lambda out: engine.files.archive(container, path, called, out))
    return StreamResponse(chunks, headers={"Content-Type": TAR, **_stat_header(found)})


async def put_archive(engine: Engine, request: Request) -> Answer:
    called, query = request.params["id"], request.query
    container = engine.containers.get(called)
    body = body_file(request.body_chunks())
    keep_kinds, as_user = query.flag("noOverwriteDirNonDir"), query.flag("copyUIDGID")
    await engine.files.extract(container, _path(request), called, body, keep_kinds, as_user)
    return empty_response(200)


async def export(engine: Engine, request: Request) -> Answer:
    container = engine.containers.get(request.params["id"])
    chunks = produced(lambda out: engine.files.export(container, out))
    return StreamResponse(chunks, headers={"Content-Type": "application/octet-stream"})


async def changes(engine: Engine, request: Request) -> Answer:
    found = await engine.files.changes(engine.containers.get(request.params["id"]))
    return json_response([{"Path": change.path, "Kind": change.kind} for change in found])


async def commit(engine: Engine, request: Request) -> Answer:
    query = request.query
    container = engine.containers.get(query.text("container"))
    own = bodies.CONTAINER_CONFIG.read(await request.json())
    repository, tag = query.text("repo"), query.text("tag")
    image = await engine.files.commit(
        container,
        wire.committed_config(container, own),
        (f"{repository}:{tag}" if tag else repository) or None,
        query.text("comment"),
        query.text("author"),
        query.texts("changes"),
        query.flag("pause", True),
    )
    return json_response({"Id": image.id}, 201)


ROUTES: list[Route] = [
    ("HEAD", "/containers/{id}/archive", head_archive),
    ("GET", "/containers/{id}/archive", get_archive),
    ("PUT", "/containers/{id}/archive", put_archive),
    ("GET", "/containers/{id}/export", export),
    ("GET", "/containers/{id}/changes", changes),
    ("POST", "/commit", commit),
]
