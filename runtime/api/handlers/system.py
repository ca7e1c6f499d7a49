"""/_ping, /version, /info and /events: see the Engine API, "System"."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from runtime import __version__
from runtime.api import wire
from runtime.api.http1 import Answer, Request, Response, StreamResponse
from runtime.api.router import API_VERSION, MIN_API_VERSION, Route, json_response, version_text
from runtime.cgroups import host_facts
from runtime.engine.engine import Engine
from runtime.engine.events import Event
from runtime.errors import InvalidParameter
from runtime.oci.image import platform_of_host

EVENT_FILTERS = {"container", "event", "image", "label", "network", "scope", "type", "volume", "daemon"}


async def ping(engine: Engine, request: Request) -> Answer:
    headers = {
        "Builder-Version": "1",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Content-Type": "text/plain; charset=utf-8",
        "Pragma": "no-cache",
        "Swarm": "inactive",
    }
    return Response(200, b"OK" if request.method == "GET" else b"", headers)


async def version(engine: Engine, request: Request) -> Answer:
    host = os.uname()
    facts = {
        "Version": __version__,
        "ApiVersion": version_text(API_VERSION),
        "MinAPIVersion": version_text(MIN_API_VERSION),
        "Os": "linux",
        "Arch": platform_of_host()["architecture"],
        "KernelVersion": host.release,
    }
    details = {name: facts[name] for name in ("ApiVersion", "MinAPIVersion", "Os", "Arch", "KernelVersion")}
    return json_response(
        {
            "Platform": {"Name": "Wherry"},
            "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
            **facts,
            "GitCommit": "",
            "GoVersion": f"python {platform.python_version()}",
            "BuildTime": "",
        }
    )


async def info(engine: Engine, request: Request) -> Answer:
    counts = Counter(container.state.status for container in engine.containers.all())
    host, cgroups = os.uname(), host_facts()
    return json_response(
        {
            "ID": engine.settings.instance,
            "Containers": counts.total(),
            "ContainersRunning": counts["running"],
            "ContainersPaused": 0,
            "ContainersStopped": counts.total() - counts["running"],
            "Images": len(engine.images.all()),
            "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", "overlayfs"]],
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "null"],
                "Authorization": None,
                "Log": ["json-file"],
            },
            "MemoryLimit": cgroups["memory_limit"],
            "SwapLimit": cgroups["swap_limit"],
            "CpuCfsPeriod": cgroups["cpu_quota"],
            "CpuCfsQuota": cgroups["cpu_quota"],
            "CPUShares": cgroups["cpu_shares"],
            "CPUSet": cgroups["cpu_set"],
            "PidsLimit": cgroups["pids_limit"],
            "IPv4Forwarding": True,
            "Debug": False,
            "NFd": len(os.listdir("/proc/self/fd")),
            "NGoroutines": 0,
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": cgroups["version"],
            "NEventsListener": 0,
            "KernelVersion": host.release,
            "OperatingSystem": _operating_system(),
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": host.machine,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {"InsecureRegistryCIDRs": [], "IndexConfigs": {}, "Mirrors": []},
            "NCPU": os.cpu_count(),
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "DockerRootDir": str(engine.settings.data_root),
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": host.nodename,
            "Labels": [],
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": {"wherry": {"path": "wherry"}},
            "DefaultRuntime": "wherry",
            "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False},
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": "tini",
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
            "Warnings": [],
        }
    )


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


async def events(engine: Engine, request: Request) -> Answer:
    filters = request.query.filters()
    if unknown := set(filters) - EVENT_FILTERS:
        raise InvalidParameter(f"invalid filter '{min(unknown)}'")
    since, until = request.query.text("since"), request.query.text("until")
    listening = engine.events.listen(
        wire.parse_timestamp(since) if since else None, wire.parse_timestamp(until) if until else None
    )

    async def lines() -> AsyncIterator[bytes]:
        async for event in listening:
            if _wanted(event, filters):
                yield json.dumps(wire.event(event)).encode() + b"\n"

    return StreamResponse(lines(), headers={"Content-Type": "application/json"})


def _wanted(event: Event, filters: dict[str, list[str]]) -> bool:
    return all(any(_meets(event, name, value) for value in values) for name, values in filters.items() if values)


def _meets(event: Event, name: str, value: str) -> bool:
    attributes: Any = event.attributes
    if name == "type":
        return event.type == value
    if name == "event":
        return event.action == value or event.action.startswith(f"{value}:")
    if name == "label":
        key, equals, wanted = value.partition("=")
        return key in attributes and (not equals or attributes[key] == wanted)
    if name == "scope":
        return value == "local"
    if name == "image" and event.type == "container":
        return bool(attributes.get("image") == value)
    return event.type == name and (event.actor.startswith(value) or attributes.get("name") == value)


ROUTES: list[Route] = [
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("GET", "/info", info),
    ("GET", "/events", events),
]
