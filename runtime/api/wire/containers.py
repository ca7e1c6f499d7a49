"""Containers and execs: the Engine API's ContainerInspectResponse, ContainerSummary and their parts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from runtime.api.wire.networks import endpoints, sandbox_id
from runtime.api.wire.times import human_duration, timestamp
from runtime.api.wire.volumes import mounts
from runtime.content.snapshots import OverlayRootfs
from runtime.engine.container import Container, State
from runtime.engine.execs import Exec
from runtime.engine.logs import log_path
from runtime.engine.networks import Membership
from runtime.engine.options import merged_healthcheck
from runtime.engine.volumes import Volume
from runtime.oci import defaults

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
    "BlkioWeightDevice": [],
    "BlkioDeviceReadBps": [],
    "BlkioDeviceWriteBps": [],
    "BlkioDeviceReadIOps": [],
    "BlkioDeviceWriteIOps": [],
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
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


def state(container: Container) -> dict[str, Any]:
    facts = container.state
    shown: dict[str, Any] = {
        "Status": facts.status,
        "Running": facts.is_up,
        "Paused": facts.status == "paused",
        "Restarting": facts.status == "restarting",
        "OOMKilled": facts.oom_killed,
        "Dead": facts.status == "dead",
        "Pid": facts.pid,
        "ExitCode": facts.exit_code,
        "Error": facts.error or container.log_fault,
        "StartedAt": timestamp(facts.started_ns),
        "FinishedAt": timestamp(facts.finished_ns),
    }
    if facts.health:
        shown["Health"] = {
            "Status": facts.health.status,
            "FailingStreak": facts.health.failing_streak,
            "Log": [
                {
                    "Start": timestamp(probe.started_ns),
                    "End": timestamp(probe.ended_ns),
                    "ExitCode": probe.exit_code,
                    "Output": probe.output,
                }
                for probe in facts.health.log
            ],
        }
    return shown


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
        "Volumes": {**(image.get("Volumes") or {}), **(own.get("Volumes") or {})} or None,
        "WorkingDir": own.get("WorkingDir") or image.get("WorkingDir") or "",
        "Entrypoint": own.get("Entrypoint"),
        "OnBuild": None,
        "Labels": container.options.labels,
    }
    shown_if_set = {
        "Healthcheck": merged_healthcheck(own, image),
        "StopSignal": own.get("StopSignal") or image.get("StopSignal"),
        "Shell": own.get("Shell") or image.get("Shell"),
    }
    merged |= {name: value for name, value in shown_if_set.items() if value}
    if merged["Entrypoint"] is None:
        merged["Entrypoint"] = image.get("Entrypoint")
        merged["Cmd"] = merged["Cmd"] or image.get("Cmd")
    if container.options.exposed:
        merged["ExposedPorts"] = {port: {} for port in container.options.exposed}
    for name in ("HostConfig", "NetworkingConfig"):
        merged.pop(name, None)
    return merged


def host_config(container: Container, links: list[str] | None) -> dict[str, Any]:
    given = {name: value for name, value in container.host_config.items() if value is not None}
    merged = {**HOST_CONFIG_DEFAULTS, **given}
    merged["NetworkMode"] = container.options.network_mode
    options = container.options
    for name, own, usual in (
        ("MaskedPaths", options.masked_paths, defaults.masked_paths()),
        ("ReadonlyPaths", options.readonly_paths, defaults.READONLY_PATHS),
    ):
        merged[name] = own if own is not None else [] if options.privileged else list(usual)
    merged["Links"] = links
    for name in ("LogConfig", "RestartPolicy"):
        merged[name] = {**HOST_CONFIG_DEFAULTS[name], **{k: v for k, v in merged[name].items() if v}}
    return merged


def network_settings(container: Container, member: Membership | None) -> dict[str, Any]:
    networks = endpoints(container, member)
    legacy = networks.get("bridge") if container.options.network_mode == "bridge" else None
    ports: dict[str, Any] = dict.fromkeys(container.options.exposed)
    for bound in member.published.ports if member else []:
        key = f"{bound.container_port}/{bound.protocol}"
        ports[key] = [
            *(ports.get(key) or []),
            {"HostIp": str(bound.host_address), "HostPort": str(bound.host_port)},
        ]
    return {
        "Bridge": "",
        "SandboxID": sandbox_id(member),
        "SandboxKey": f"/proc/{container.state.pid}/ns/net" if container.state.pid else "",
        "Ports": ports if member else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        # Those of the default bridge, as in the days of one network only.
        **{name: legacy[name] if legacy else empty for name, empty in LEGACY_SETTINGS.items()},
        "Networks": networks,
    }


LEGACY_SETTINGS: dict[str, Any] = {
    "EndpointID": "",
    "Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "MacAddress": "",
}


def ports_summary(member: Membership | None, container: Container) -> list[dict[str, Any]]:
    summary: list[dict[str, Any]] = []
    published = set()
    for bound in member.published.ports if member else []:
        published.add(f"{bound.container_port}/{bound.protocol}")
        summary.append(
            {
                "IP": str(bound.host_address),
                "PrivatePort": bound.container_port,
                "PublicPort": bound.host_port,
                "Type": bound.protocol,
            }
        )
    if member:
        for exposed in container.options.exposed:
            port, _, protocol = exposed.partition("/")
            if f"{port}/{protocol or 'tcp'}" not in published:
                summary.append({"PrivatePort": int(port), "Type": protocol or "tcp"})
    return summary


def status_text(facts: State) -> str:
    """`Up 5 minutes (healthy)`, `Exited (0) 2 hours ago`, `Created`: the STATUS column of `docker ps`."""
    now = time.time_ns()
    if facts.status == "restarting":
        return f"Restarting ({facts.exit_code}) {human_duration((now - facts.finished_ns) / 1e9)} ago"
    if facts.is_up:
        up = f"Up {human_duration((now - facts.started_ns) / 1e9)}"
        if facts.status == "paused":
            return f"{up} (Paused)"
        if facts.health:
            return f"{up} ({'health: ' if facts.health.status == 'starting' else ''}{facts.health.status})"
        return up
    if facts.status == "removing":
        return "Removal In Progress"
    if facts.status == "dead":
        return "Dead"
    if facts.status == "created" or not facts.finished_ns:
        return "Created"
    return f"Exited ({facts.exit_code}) {human_duration((now - facts.finished_ns) / 1e9)} ago"


def container_summary(
    container: Container, member: Membership | None, volumes: dict[str, Volume], image: str
) -> dict[str, Any]:
    """ContainerSummary; `image` is the name to show. Made for every container of a list: nothing slow."""
    options = container.options
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": image,
        "ImageID": container.image_id,
        "Command": " ".join(f"'{word}'" if i and " " in word else word for i, word in enumerate(options.args)),
        "Created": container.created_ns // 1_000_000_000,
        "Ports": ports_summary(member, container),
        "Labels": options.labels,
        "State": container.state.status,
        "Status": status_text(container.state) + (" (log cannot be written)" if container.log_fault else ""),
        "HostConfig": {"NetworkMode": options.network_mode},
        "NetworkSettings": {"Networks": endpoints(container, member)},
        "Mounts": mounts(container, volumes),
    }


def container_inspect(
    container: Container,
    member: Membership | None,
    volumes: dict[str, Volume],
    rootfs: OverlayRootfs,
    bundle: Path,
    links: list[str] | None,
) -> dict[str, Any]:
    """ContainerInspectResponse. Its files exist from the first start on."""
    started = bool(container.state.started_ns)
    return {
        "Id": container.id,
        "Created": timestamp(container.created_ns),
        "Path": container.options.args[0],
        "Args": container.options.args[1:],
        "State": state(container),
        "Image": container.image_id,
        "ResolvConfPath": str(bundle / "resolv.conf") if started else "",
        "HostnamePath": str(bundle / "hostname") if started else "",
        "HostsPath": str(bundle / "hosts") if started else "",
        "LogPath": str(log_path(container)) if started and container.options.log.driver == "json-file" else "",
        "Name": f"/{container.name}",
        "RestartCount": container.state.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": container.execs or None,
        "HostConfig": host_config(container, links),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {
                "ID": container.id,
                "LowerDir": ":".join(rootfs.lower),
                "MergedDir": str(bundle / "rootfs"),
                "UpperDir": rootfs.upper,
                "WorkDir": rootfs.work,
            },
        },
        "Mounts": mounts(container, volumes),
        "Config": config(container),
        "NetworkSettings": network_settings(container, member),
    }


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
