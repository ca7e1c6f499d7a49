"""`wherry doctor`: does this computer have what Wherry needs, and if not, what to do.

Each check asks the system itself, changes nothing, needs no root, and ends with a sentence.
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.core.translations import tr
from app.engine.client import EngineClient
from app.services.engines import EngineBackend
from app.services.locations import NativeLocations, embedded_images
from app.services.vm_engine import VmBackend

Verdict = Literal["ok", "warn", "fail"]

_GIB = 1 << 30
_OLDEST_KERNEL = (5, 10)  # clone3, pidfd_open, openat2 and cgroup.kill's predecessors are all there
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_CONTROLLERS = ("cpu", "memory", "pids")


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at and how it stands; `remedy` is "" when there is nothing to do."""

    name: str
    verdict: Verdict
    sentence: str
    remedy: str = ""


def run_checks(backend: EngineBackend, locations: NativeLocations) -> list[Check]:
    """All checks that matter to this backend, the engine itself first."""
    return list(_checks(backend, locations))


def _checks(backend: EngineBackend, locations: NativeLocations) -> Iterator[Check]:
    yield engine_answers(backend)
    yield from engine_warnings(backend)
    if backend.name == "native":
        yield kernel_version()
        yield namespaces()
        yield cgroups()
        yield overlay()
        yield seccomp()
        yield netfilter()
        yield disk_space(locations.data_root)
        yield images_at_hand()
    if isinstance(backend, VmBackend):
        yield from machine(backend)
    yield other_docker(backend.host())


def engine_answers(backend: EngineBackend) -> Check:
    status = backend.status()
    name = tr("Engine")
    if status.state in ("running", "idle"):
        return Check(name, "ok", tr("It answers at {host}.", host=status.host))
    verdict: Verdict = (
        "warn" if status.state in ("absent", "stopped", "saved", "paused", "starting", "stopping") else "fail"
    )
    return Check(name, verdict, " ".join(status.reasons) or tr("It is {state}.", state=status.state))


def engine_warnings(backend: EngineBackend) -> Iterator[Check]:
    """What the engine itself finds wanting where it runs: a firewall in the way, limits that the kernel lacks."""
    if backend.status().state not in ("running", "degraded", "idle"):
        return
    with EngineClient(backend.host()) as client:
        warnings = client.info().warnings
    for warning in warnings:
        sentence, _, remedy = warning.removeprefix("WARNING: ").partition(" Remedy: ")
        yield Check(tr("Engine's warning"), "warn", sentence if sentence.endswith(".") else f"{sentence}.", remedy)


def kernel_version(release: str | None = None) -> Check:
    release = release or platform.release()
    name = tr("Kernel")
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers >= _OLDEST_KERNEL:
        return Check(name, "ok", tr("Linux {release}.", release=release))
    wanted = ".".join(map(str, _OLDEST_KERNEL))
    return Check(
        name,
        "fail",
        tr("Linux {release} is older than {wanted}.", release=release, wanted=wanted),
        tr("Update the system, or use a virtual machine: wherry --backend vm up."),
    )


def namespaces(directory: Path = Path("/proc/self/ns")) -> Check:
    name = tr("Namespaces")
    missing = [kind for kind in _NAMESPACES if not (directory / kind).is_symlink()]
    if not missing:
        return Check(name, "ok", tr("All kinds are there."))
    return Check(
        name,
        "fail",
        tr("The kernel was built without: {missing}.", missing=", ".join(missing)),
        tr("Use a kernel with them, or a virtual machine: wherry --backend vm up."),
    )


def cgroups(root: Path = Path("/sys/fs/cgroup"), table: Path = Path("/proc/cgroups")) -> Check:
    """Version 2 lists its controllers in one file; version 1 has a directory for each, next to it in hybrid."""
    name = tr("Cgroups")
    unified = root / "cgroup.controllers"
    if unified.exists():
        version, present = "2", set(unified.read_text().split())
    else:
        lines = table.read_text().splitlines() if table.exists() else []
        enabled = {line.split()[0] for line in lines if not line.startswith("#") and line.split()[3] == "1"}
        version, present = "1", {controller for controller in enabled if (root / controller).is_dir()}
    missing = [controller for controller in _CONTROLLERS if controller not in present]
    if not missing:
        return Check(name, "ok", tr("Version {version} with cpu, memory and pids.", version=version))
    return Check(
        name,
        "warn",
        tr("Version {version} without: {missing}.", version=version, missing=", ".join(missing)),
        tr("Limits of that kind will not work; see cgroup_disable= on the kernel's command line."),
    )


def overlay(filesystems: Path = Path("/proc/filesystems"), modules: Path | None = None) -> Check:
    name = tr("Overlay")
    if "overlay" in filesystems.read_text().split():
        return Check(name, "ok", tr("The kernel has it."))
    if _is_module("overlay", modules or Path("/lib/modules") / platform.release()):
        return Check(name, "ok", tr("A module of the kernel, loaded at first use."))
    return Check(
        name,
        "fail",
        tr("The kernel has no overlay file system."),
        tr("Try: sudo modprobe overlay. Or use a virtual machine: wherry --backend vm up."),
    )


def _is_module(module: str, directory: Path) -> bool:
    indexes = (directory / name for name in ("modules.dep", "modules.builtin"))
    return any(f"/{module}.ko" in index.read_text() for index in indexes if index.exists())


def seccomp(status: Path = Path("/proc/self/status")) -> Check:
    name = tr("Seccomp")
    if "\nSeccomp:" in status.read_text():
        return Check(name, "ok", tr("Containers' system calls are filtered."))
    return Check(
        name,
        "fail",
        tr("The kernel cannot filter system calls."),
        tr("Use a kernel built with CONFIG_SECCOMP_FILTER, or a virtual machine: wherry --backend vm up."),
    )


def netfilter(settings: Path = Path("/proc/sys/net/netfilter")) -> Check:
    """The kernel's side and the library's; whether the rules can be set is seen at the first published port."""
    name = tr("nftables")
    if not settings.is_dir():
        return Check(
            name,
            "fail",
            tr("The kernel has no netfilter, so containers have no way to the network."),
            tr("Try: sudo modprobe nf_tables."),
        )
    from ctypes.util import find_library

    if find_library("nftables") is None:
        return Check(
            name,
            "fail",
            tr("The library libnftables is not installed."),
            tr("Install the package libnftables1 (nftables on Fedora and Arch)."),
        )
    return Check(name, "ok", tr("The kernel and the library have it."))


def disk_space(data_root: Path, free_bytes: Callable[[Path], int] | None = None) -> Check:
    name = tr("Disk space")
    place = next(directory for directory in (data_root, *data_root.parents) if directory.exists())
    free = free_bytes(place) if free_bytes else shutil.disk_usage(place).free
    sentence = tr("{size} GiB are free at {place}.", size=f"{free / _GIB:.1f}", place=place)
    if free >= 5 * _GIB:
        return Check(name, "ok", sentence)
    remedy = tr("Free some, or keep images elsewhere with --data-root.")
    return Check(name, "warn" if free >= _GIB else "fail", sentence, remedy)


def images_at_hand(directory: Path | None = None) -> Check:
    name = tr("Images that come with Wherry")
    directory = directory or embedded_images()
    if directory is None:
        return Check(
            name, "warn", tr("There are none, so a new engine starts empty."), tr("Load one with: wherry load -i FILE.")
        )
    count = len(list(directory.glob("*.tar*")))
    return Check(name, "ok", tr("{count} in {place}.", count=count, place=directory))


def machine(backend: VmBackend) -> Iterator[Check]:
    """What the machine's own package finds; its sentences are the same in every language."""
    for finding in backend.findings():
        yield Check(finding.subject, finding.verdict, finding.sentence, finding.remedy)


def other_docker(our_host: str, home: Path | None = None, docker_host: str | None = None) -> Check:
    """Whom the docker command talks to, by its own rules: DOCKER_HOST, then the context, then its usual socket."""
    name = tr("The docker command")
    target = docker_host or os.environ.get("DOCKER_HOST") or ""
    context = "" if target else _docker_context(home or Path.home())
    if target == our_host:
        return Check(name, "ok", tr("It talks to Wherry."))
    remedy = tr("To use it with Wherry: export DOCKER_HOST={host}", host=our_host)
    if target:
        return Check(name, "warn", tr("DOCKER_HOST sends it to {target}.", target=target), remedy)
    if context not in ("", "default"):
        return Check(name, "warn", tr("Its context {context} sends it elsewhere.", context=context), remedy)
    if Path("/var/run/docker.sock").exists():
        return Check(name, "warn", tr("It talks to the engine at /var/run/docker.sock."), remedy)
    return Check(name, "ok", tr("It talks to no other engine."))


def _docker_context(home: Path) -> str:
    if chosen := os.environ.get("DOCKER_CONTEXT"):
        return chosen
    try:
        config = json.loads((home / ".docker" / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("currentContext", "")) if isinstance(config, dict) else ""
