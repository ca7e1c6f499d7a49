"""Docker's JSON documents, made from the engine's objects. Field names and formats: the Engine API's definitions."""

from __future__ import annotations

import calendar
import re
import time
from datetime import datetime
from typing import Any

from runtime.content.image import Image
from runtime.engine.container import Container, State
from runtime.engine.events import Event
from runtime.engine.execs import Exec
from runtime.engine.logs import rfc3339_nano
from runtime.engine.networks import Attachment, Network, PublishedPort
from runtime.engine.options import MountRequest
from runtime.engine.volumes import Volume
from runtime.errors import InvalidParameter

NEVER = "0001-01-01T00:00:00Z"

# What `docker inspect` shows of a HostConfig nobody filled in.
HOST_CONFIG_DEFAULTS: dict[str, Any] = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "bridge",
    "PortBindings": {},
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "private",
    "Dns": [],
    "DnsOptions": [],
    "DnsSearch": [],
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": 64 << 20,
    "Runtime": "runc",
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": [],
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": None,
    "PidsLimit": None,
    "Ulimits": [],
    "MaskedPaths": None,
    "ReadonlyPaths": None,
}


def timestamp(time_ns: int) -> str:
    return rfc3339_nano(time_ns) if time_ns else NEVER


def parse_timestamp(text: str) -> int:
    """A `since` or `until`: seconds with a fraction, or RFC 3339; ns since the epoch; raises InvalidParameter."""
    if re.fullmatch(r"\d+(\.\d{1,9})?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 1_000_000_000 + int((fraction + "0" * 9)[:9])
    match = re.fullmatch(r"([^.]+?)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)?", text)
    try:
        if not match:
            raise ValueError
        moment = datetime.fromisoformat(match[1] + (match[3] or "+00:00").replace("Z", "+00:00"))
    except ValueError:
        raise InvalidParameter(f"invalid time {text!r}: give seconds since 1970 or an RFC 3339 time") from None
    seconds = calendar.timegm(moment.utctimetuple())
    return seconds * 1_000_000_000 + int(((match[2] or "") + "0" * 9)[:9])


# --- containers


def state(container: Container) -> dict[str, Any]:
    facts = container.state
    return {
        "Status": facts.status,
        "Running": facts.status == "running",
        "Paused": False,
        "Restarting": False,
        "OOMKilled": facts.oom_killed,
        "Dead": False,
        "Pid": facts.pid,
        "ExitCode": facts.exit_code,
        "Error": facts.error,
        "StartedAt": timestamp(facts.started_ns),
        "FinishedAt": timestamp(facts.finished_ns),
    }


def config(container: Container) -> dict[str, Any]:
    """The Config shown by inspect: the request's, completed by the image's, as Docker merges them."""
    image, own = container.image_config, container.config
    merged = {
        "Hostname": container.hostname,
        "Domainname": "",
        "User": container.options.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        **{name: value for name, value in own.items() if value is not None and name != "Hostname"},
        "Env": container.options.env,
        "Cmd": own.get("Cmd"),
        "Image": container.image_name,
        "Volumes": own.get("Volumes") or image.get("Volumes"),
        "WorkingDir": own.get("WorkingDir") or image.get("WorkingDir") or "",
        "Entrypoint": own.get("Entrypoint"),
        "Labels": container.options.labels,
    }
    if merged["Entrypoint"] is None:
        merged["Entrypoint"] = image.get("Entrypoint")
        merged["Cmd"] = merged["Cmd"] or image.get("Cmd")
    if container.options.exposed:
        merged["ExposedPorts"] = {port: {} for port in container.options.exposed}
    for name in ("HostConfig", "NetworkingConfig"):
        merged.pop(name, None)
    return merged


def host_config(container: Container) -> dict[str, Any]:
    given = {name: value for name, value in container.host_config.items() if value is not None}
    merged = {**HOST_CONFIG_DEFAULTS, **given}
    merged["NetworkMode"] = container.options.network_mode
    for name in ("LogConfig", "RestartPolicy"):
        merged[name] = {**HOST_CONFIG_DEFAULTS[name], **{k: v for k, v in merged[name].items() if v}}
    if merged["Memory"] and not merged["MemorySwap"]:
        merged["MemorySwap"] = 2 * merged["Memory"]
    return merged


def mounts(container: Container, volumes: dict[str, Volume]) -> list[dict[str, Any]]:
    return [
        _mount(request, volumes.get(container.volumes.get(request.target, ""))) for request in container.options.mounts
    ]


def _mount(request: MountRequest, volume: Volume | None) -> dict[str, Any]:
    shown = {
        "Type": request.kind,
        "Source": request.source,
        "Destination": request.target,
        "Mode": "ro" if request.read_only else "",
        "RW": not request.read_only,
        "Propagation": request.propagation if request.kind == "bind" else "",
    }
    if volume:
        shown |= {"Name": volume.name, "Source": str(volume.path), "Driver": "local"}
    return shown


def endpoint(attachment: Attachment | None, network: Network) -> dict[str, Any]:
    """EndpointSettings; empty values for a container that does not run."""
    connected = attachment is not None and attachment.address is not None
    return {
        "IPAMConfig": None,
        "Links": None,
        "Aliases": None,
        "MacAddress": attachment.mac if attachment else "",
        "DriverOpts": None,
        "GwPriority": 0,
        "NetworkID": network.id if attachment else "",
        "EndpointID": attachment.endpoint_id if attachment else "",
        "Gateway": str(network.gateway) if connected else "",
        "IPAddress": str(attachment.address) if connected and attachment else "",
        "IPPrefixLen": network.subnet.prefixlen if connected and network.subnet else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }


def network_settings(container: Container, attachment: Attachment | None, network: Network) -> dict[str, Any]:
    shown = endpoint(attachment, network)
    ports: dict[str, Any] = dict.fromkeys(container.options.exposed)
    for bound in attachment.ports if attachment else []:
        key = f"{bound.container_port}/{bound.protocol}"
        ports[key] = (ports.get(key) or []) + [
            {"HostIp": address, "HostPort": str(bound.host_port)} for address in _addresses(bound)
        ]
    is_bridge = network.driver == "bridge"
    return {
        "Bridge": "",
        "SandboxID": attachment.endpoint_id if attachment else "",
        "SandboxKey": f"/proc/{container.state.pid}/ns/net" if container.state.pid else "",
        "Ports": ports if attachment or container.options.exposed else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        **{
            name: shown[name]
            for name in (
                "EndpointID",
                "Gateway",
                "GlobalIPv6Address",
                "GlobalIPv6PrefixLen",
                "IPAddress",
                "IPPrefixLen",
                "IPv6Gateway",
                "MacAddress",
            )
            if is_bridge or isinstance(shown[name], str)
        },
        "Networks": {network.name: shown},
    }


def _addresses(bound: PublishedPort) -> list[str]:
    """Where a published port is reached; over IPv6 TCP alone is carried (runtime.network.userland)."""
    address = str(bound.host_address)
    return [address, "::"] if address == "0.0.0.0" and bound.protocol == "tcp" else [address]


def ports_summary(attachment: Attachment | None, container: Container) -> list[dict[str, Any]]:
    summary: list[dict[str, Any]] = []
    published = set()
    for bound in attachment.ports if attachment else []:
        published.add(f"{bound.container_port}/{bound.protocol}")
        for address in _addresses(bound):
            summary.append(
                {
                    "IP": address,
                    "PrivatePort": bound.container_port,
                    "PublicPort": bound.host_port,
                    "Type": bound.protocol,
                }
            )
    if attachment:
        for exposed in container.options.exposed:
            port, _, protocol = exposed.partition("/")
            if f"{port}/{protocol or 'tcp'}" not in published:
                summary.append({"PrivatePort": int(port), "Type": protocol or "tcp"})
    return summary


def status_text(facts: State) -> str:
    """`Up 5 minutes`, `Exited (0) 2 hours ago`, `Created`: the STATUS column of `docker ps`."""
    now = time.time_ns()
    if facts.status == "running":
        return f"Up {human_duration((now - facts.started_ns) / 1e9)}"
    if facts.status == "created" or not facts.finished_ns:
        return "Created"
    if facts.status == "removing":
        return "Removal In Progress"
    return f"Exited ({facts.exit_code}) {human_duration((now - facts.finished_ns) / 1e9)} ago"


def human_duration(seconds: float) -> str:
    """go-units' HumanDuration."""
    whole = int(seconds)
    minutes, hours = whole // 60, round(whole / 3600)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for unit_hours, limit, name in (
        (24, 24 * 14, "days"),
        (24 * 7, 24 * 60, "weeks"),
        (24 * 30, 24 * 730, "months"),
    ):
        if hours < limit:
            return f"{hours // unit_hours} {name}"
    return f"{hours // 24 // 365} years"


# --- images


def image_created_s(image: Image) -> int:
    try:
        return parse_timestamp(image.created) // 1_000_000_000 if image.created else 0
    except InvalidParameter:
        return 0


def image_summary(image: Image, containers: int) -> dict[str, Any]:
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.references),
        "RepoDigests": list(image.repo_digests),
        "Created": image_created_s(image),
        "Size": image.size_bytes,
        "SharedSize": -1,
        "VirtualSize": image.size_bytes,
        "Labels": (image.config.get("config") or {}).get("Labels") or {},
        "Containers": containers,
    }


def image_inspect(image: Image) -> dict[str, Any]:
    settings: Any = image.config.get("config") or {}
    return {
        "Id": image.id,
        "RepoTags": list(image.references),
        "RepoDigests": list(image.repo_digests),
        "Parent": "",
        "Comment": "",
        "Created": image.created or NEVER,
        "DockerVersion": "",
        "Author": image.config.get("author", ""),
        "Config": dict(settings),
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size_bytes,
        "VirtualSize": image.size_bytes,
        "GraphDriver": {"Name": "overlay2", "Data": None},
        "RootFS": {
            "Type": "layers",
            "Layers": list((image.config.get("rootfs") or {}).get("diff_ids") or []),
        },
        "Metadata": {"LastTagTime": NEVER},
    }


# --- the rest


def event(event: Event) -> dict[str, Any]:
    attributes = dict(event.attributes)
    shown: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor, "Attributes": attributes},
        "scope": "local",
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }
    if event.type in ("container", "image"):
        shown |= {"status": event.action, "id": event.actor}
        if event.type == "container":
            shown["from"] = attributes.get("image", "")
    return shown


def exec_inspect(exec: Exec) -> dict[str, Any]:
    return {
        "ID": exec.id,
        "Running": exec.running,
        "ExitCode": exec.exit_code,
        "ProcessConfig": {
            "tty": exec.tty,
            "entrypoint": exec.args[0],
            "arguments": exec.args[1:],
            "privileged": exec.privileged,
            "user": exec.user,
        },
        "OpenStdin": exec.open_stdin,
        "OpenStderr": exec.attach_stderr,
        "OpenStdout": exec.attach_stdout,
        "CanRemove": exec.exit_code is not None,
        "ContainerID": exec.container.id,
        "DetachKeys": exec.detach_keys,
        "Pid": exec.pid,
    }


def network(network: Network, connected: dict[str, Attachment], names: dict[str, str]) -> dict[str, Any]:
    ipam = [{"Subnet": str(network.subnet), "Gateway": str(network.gateway)}] if network.subnet else []
    is_bridge = network.driver == "bridge"
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": timestamp(network.created_ns),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": ipam},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            id: {
                "Name": names.get(id, ""),
                "EndpointID": attachment.endpoint_id,
                "MacAddress": attachment.mac,
                "IPv4Address": f"{attachment.address}/{network.subnet.prefixlen}"
                if attachment.address and network.subnet
                else "",
                "IPv6Address": "",
            }
            for id, attachment in connected.items()
        },
        "Options": {"com.docker.network.bridge.name": network.bridge} if is_bridge else {},
        "Labels": {},
    }


def volume(volume: Volume) -> dict[str, Any]:
    return {
        "CreatedAt": timestamp(volume.created_ns),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": str(volume.path),
        "Name": volume.name,
        "Options": None,
        "Scope": "local",
    }
