"""From a request's method and path to a handler: `/v1.47/containers/{id}/json`, with or without the version."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from runtime.api.errors import error_response
from runtime.api.http1 import Answer, Request, Response
from runtime.errors import InvalidParameter, NotFound, WherryError

log = logging.getLogger(__name__)

API_VERSION = (1, 51)
MIN_API_VERSION = (1, 24)
ALWAYS_ANSWERED = ("/_ping", "/version")  # also while the engine loads its first images

Endpoint = Callable[[Any, Request], Awaitable[Answer]]
Route = tuple[str, str, Endpoint]  # method, template, handler(engine, request)

_VERSION = re.compile(r"/v(\d+)\.(\d+)(/.*)")


def version_text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def json_response(value: Any, status: int = 200) -> Response:
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    return Response(status, body, {"Content-Type": "application/json"})


def empty_response(status: int = 204) -> Response:
    return Response(status)


def _compile(template: str) -> re.Pattern[str]:
    """`{name}` matches one segment, `{name:path}` any number of them (image names hold slashes)."""
    pattern = re.sub(r"\{(\w+):path\}", r"(?P<\1>.+)", template)
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))


class Router:
    """Finds the handler, reads the version, and turns every error into an answer."""

    def __init__(self, engine: Any, routes: list[Route]) -> None:
        self._engine = engine
        self._routes = [(method, _compile(template), handler) for method, template, handler in routes]

    async def __call__(self, request: Request) -> Answer:
        try:
            self._read_version(request)
            if request.path not in ALWAYS_ANSWERED:
                await self._engine.ready.wait()
            return await self._find(request)(self._engine, request)
        except (WherryError, OSError) as error:
            level = logging.ERROR if isinstance(error, OSError) else logging.DEBUG
            log.log(level, "%s %s: %s", request.method, request.path, error)
            return error_response(error)
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            return error_response(error)

    def _read_version(self, request: Request) -> None:
        request.api_version = API_VERSION
        match = _VERSION.fullmatch(request.path)
        if not match:
            return
        version = (int(match[1]), int(match[2]))
        if version > API_VERSION:
            raise InvalidParameter(
                f"client version {version_text(version)} is too new. "
                f"Maximum supported API version is {version_text(API_VERSION)}"
            )
        if version < MIN_API_VERSION:
            raise InvalidParameter(
                f"client version {version_text(version)} is too old. Minimum supported API version is "
                f"{version_text(MIN_API_VERSION)}, please upgrade your client to a newer version"
            )
        request.api_version = version
        request.path = match[3]

    def _find(self, request: Request) -> Endpoint:
        for method, pattern, handler in self._routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                request.params = match.groupdict()
                return handler
        raise NotFound("page not found")
