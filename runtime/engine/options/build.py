"""What `POST /build` asks for, read from its query (Engine API, "Image", ImageBuild)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from runtime.engine.build.cache_documents import parse_spec
from runtime.engine.build.request import BuildRequest
from runtime.errors import InvalidParameter, NotSupported

# Parameters with another value than these are refused by name.
_REFUSED = {
    "squash": "--squash",
    "session": "BuildKit's sessions",
    "outputs": "outputs",
}


class Query(Protocol):
    def text(self, name: str, default: str = "") -> str: ...

    def texts(self, name: str) -> list[str]: ...

    def flag(self, name: str, default: bool = False) -> bool: ...

    def number(self, name: str) -> int | None: ...


def build_request(query: Query, secrets: str = "") -> BuildRequest:
    """`secrets`: {id: base64} in base64url. Raises InvalidParameter, NotSupported."""
    _refuse(query)
    sources = _document(query, "cachefrom", list, lambda value: isinstance(value, str))
    return BuildRequest(
        dockerfile=query.text("dockerfile") or "Dockerfile",
        remote=query.text("remote"),
        tags=tuple(tag for tag in query.texts("t") if tag),
        target=query.text("target"),
        build_args=_document(query, "buildargs", dict, lambda value: value is None or isinstance(value, str)),
        labels=_document(query, "labels", dict, lambda value: isinstance(value, str)),
        no_cache=query.flag("nocache"),
        pull=query.flag("pull"),
        cache_from=tuple(source for source in sources if "type=" not in source),
        imports=tuple(parse_spec(source) for source in sources if "type=" in source),
        exports=tuple(map(parse_spec, _document(query, "cacheto", list, lambda value: isinstance(value, str)))),
        platform=query.text("platform"),
        quiet=query.flag("q"),
        keep_intermediate=not query.flag("rm", True) and not query.flag("forcerm"),
        host_config=_host_config(query),
        secrets=_secrets(secrets),
        contexts=_document(query, "contexts", dict, lambda value: isinstance(value, str)),
        allowed=frozenset(query.texts("allow")),
        agents=_document(query, "agents", dict, lambda value: isinstance(value, str)),
    )


def _secrets(text: str) -> dict[str, bytes]:
    try:
        document = json.loads(base64.urlsafe_b64decode(text) or b"{}")
        return {str(id): base64.b64decode(data) for id, data in document.items()}
    except (ValueError, TypeError, AttributeError):
        raise InvalidParameter("the secrets of the build cannot be read") from None


def _refuse(query: Query) -> None:
    if query.text("version") == "2":
        raise NotSupported("BuildKit is not part of Wherry: set DOCKER_BUILDKIT=0, or use wherry build")
    if query.flag("squash"):
        raise InvalidParameter("squash is only supported with experimental mode")
    if any(query.texts("securityopt")):
        raise InvalidParameter("The daemon on this platform does not support setting security options on build")
    if (isolation := query.text("isolation")) not in ("", "default"):
        raise InvalidParameter(f'unsupported isolation: "{isolation}"')
    for name, option in _REFUSED.items():
        if name != "squash" and query.text(name) not in ("", "[]", "null"):
            raise NotSupported(f"{option} is not supported by this version of Wherry: leave it out")


def _host_config(query: Query) -> dict[str, Any]:
    numbers = {
        "CpuShares": "cpushares",
        "CpuPeriod": "cpuperiod",
        "CpuQuota": "cpuquota",
        "Memory": "memory",
        "MemorySwap": "memswap",
        "ShmSize": "shmsize",
    }
    texts = {
        "CpusetCpus": "cpusetcpus",
        "CpusetMems": "cpusetmems",
        "CgroupParent": "cgroupparent",
    }
    host: dict[str, Any] = {name: query.number(parameter) or 0 for name, parameter in numbers.items()}
    host |= {name: query.text(parameter) for name, parameter in texts.items()}
    host["NetworkMode"] = query.text("networkmode") or "default"
    host["Ulimits"] = _document(query, "ulimits", list, lambda value: isinstance(value, dict))
    host["ExtraHosts"] = _extra_hosts(query)
    return {name: value for name, value in host.items() if value}


def _extra_hosts(query: Query) -> list[str]:
    """The CLI sends one parameter each, docker-py a mapping or a list of "name:address" in JSON."""
    hosts: list[str] = []
    for text in query.texts("extrahosts"):
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(value, dict):
            hosts += [f"{name}:{address}" for name, address in value.items()]
        elif isinstance(value, list):
            hosts += [str(item) for item in value]
        else:
            hosts.append(text)
    return [host for host in hosts if host]


def _document(query: Query, name: str, kind: type, fits: Callable[[Any], bool]) -> Any:
    text = query.text(name)
    if not text:
        return kind()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidParameter(f"error reading {name}: {error}") from None
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise InvalidParameter(f"invalid {name}: a JSON {'object' if kind is dict else 'array'} is needed")
    members: Sequence[Any] = list(value.values()) if isinstance(value, dict) else list(value)  # type: ignore[call-overload]
    if not all(map(fits, members)):
        raise InvalidParameter(f"invalid {name}: a value in it is of the wrong type")
    return value
