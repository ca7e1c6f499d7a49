"""From a request's method and path to a handler: `/v1.47/containers/{id}/json`, with or without the version."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from runtime.api.errors import error_response
from runtime.api.http1 import Answer, Request, Response
from runtime.api.http1_codec import Headers
from runtime.errors import Cancelled, InvalidParameter, NotFound, WherryError

log = logging.getLogger(__name__)

API_VERSION = (1, 51)
MIN_API_VERSION = (1, 24)
ALWAYS_ANSWERED = ("/_ping", "/version")  # also while the engine loads its first images

Endpoint = Callable[[Any, Request], Awaitable[Answer]]
Route = tuple[str, str, Endpoint]  # method, template, handler(engine, request)

_VERSION = re.compile(r"/v(\d+(?:\.\d+)*)(/.*)")


def version_text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _version_of(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    return int(major), int(rest.partition(".")[0] or 0)


def common_headers(version: str) -> Headers:
    """What every answer bears (moby's VersionMiddleware); clients read the OS and the API's version from it."""
    return [
        ("Api-Version", version_text(API_VERSION)),
        ("Docker-Experimental", "false"),
        ("Ostype", "linux"),
        ("Server", f"Wherry/{version} (linux)"),
    ]


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
        self._routes: dict[tuple[str, str], list[tuple[re.Pattern[str], Endpoint]]] = {}
        for method, template, handler in routes:
            self._routes.setdefault((method, _first_segment(template)), []).append((_compile(template), handler))

    async def __call__(self, request: Request) -> Answer:
        try:
            self._read_version(request)
            if request.method == "OPTIONS":
                return Response(200)
            if request.path not in ALWAYS_ANSWERED:
                await self._engine.ready.wait()
            return await self._find(request)(self._engine, request)
        except ConnectionError as error:
            log.debug("%s %s: the client went away: %s", request.method, request.path, error)
            return error_response(Cancelled("the client went away"))
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
        version = _version_of(match[1])
        if version > API_VERSION:
            raise InvalidParameter(
                f"client version {match[1]} is too new. Maximum supported API version is {version_text(API_VERSION)}"
            )
        if version < MIN_API_VERSION:
            raise InvalidParameter(
                f"client version {match[1]} is too old. Minimum supported API version is "
                f"{version_text(MIN_API_VERSION)}, please upgrade your client to a newer version"
            )
        request.api_version = version
        request.path = match[2]

    def _find(self, request: Request) -> Endpoint:
        for pattern, handler in self._routes.get((request.method, _first_segment(request.path)), []):
            if match := pattern.fullmatch(request.path):
                request.params = match.groupdict()
                return handler
        raise NotFound("page not found")  # for a wrong method too, as moby's CreateMux has it


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]
