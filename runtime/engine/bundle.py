"""A container's OCI bundle: config.json, its seccomp program, and the files of /etc that an engine writes.

Bundles are below the run directory, which is memory on most hosts: a start writes five files, and no disk.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runtime.content.merged import read_in_container
from runtime.content.snapshots import OverlayRootfs
from runtime.content.users import GROUP_PATH, PASSWD_PATH, ResolvedUser, resolve_user
from runtime.engine import files, spec_gen
from runtime.engine.container import Container
from runtime.engine.links import Linked
from runtime.engine.networks import Membership
from runtime.engine.settings import EngineSettings
from runtime.engine.sharing import Shared
from runtime.errors import NotSupported
from runtime.linux.seccomp import compile_filter
from runtime.network.dns.view import GATEWAY_NAME, HOST_NAME

INIT_PROGRAMS = ("/usr/bin/tini-static", "/usr/libexec/docker/docker-init", "/usr/bin/docker-init")


class Mounts(Protocol):
    def resolved(self, container: Container) -> list[spec_gen.HostMount]: ...


class Bundles:
    """Writes bundles from containers' options and the facts of this host."""

    def __init__(self, settings: EngineSettings, mounts: Mounts) -> None:
        self._settings = settings
        self._mounts = mounts
        self._root = str(settings.bundles_dir)
        self._filter = _Filter(None, "", b"")
        for directory in (settings.bundles_dir, settings.rootfs_dir):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)

    def directory(self, container: Container) -> Path:
        """Where its bundle is, or will be at its next start."""
        return self._settings.bundles_dir / container.id

    def remove(self, id: str) -> None:
        """Nothing if there is none."""
        directory = f"{self._root}/{id}"
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(directory):
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)

    def retain(self, ids: Collection[str]) -> None:
        """Remove every bundle but these."""
        for id in os.listdir(self._settings.bundles_dir):
            if id not in ids:
                self.remove(id)

    def user_of(self, container: Container, rootfs: OverlayRootfs) -> ResolvedUser:
        def read(path: str) -> bytes | None:
            return read_in_container(rootfs.lower, rootfs.upper, path)

        options = container.options
        return resolve_user(options.user, read(PASSWD_PATH), read(GROUP_PATH), options.groups)

    def init_program(self, container: Container) -> str | None:
        if not container.options.init:
            return None
        found = next((path for path in INIT_PROGRAMS if Path(path).is_file()), None)
        if found is None:
            raise NotSupported(
                '--init: exec: "docker-init": executable file not found in $PATH: install tini (on Debian: apt install '
                "tini)"
            )
        return found

    def write(
        self,
        container: Container,
        rootfs: OverlayRootfs,
        member: Membership,
        linked: Sequence[Linked],
        shared: Shared,
        cgroups_path: str,
    ) -> dict[str, Any]:
        options, directory = container.options, f"{self._root}/{container.id}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o710)
        own_network = not member.shares_host
        hostname = container.hostname
        if member.joined:  # with the network come its names
            hostname, files_of = member.joined.container.hostname, f"{self._root}/{member.joined.container.id}"
        else:
            files_of = directory
            self._write_names(directory, container, member, hostname, linked)
        container.link_env = [entry for one in linked for entry in one.environment()]
        mounts = self._mounts.resolved(container)
        targets = {mount.target for mount in mounts}
        for name in ("hostname", "hosts", "resolv.conf"):
            if f"/etc/{name}" not in targets:
                mounts.append(spec_gen.HostMount(f"{files_of}/{name}", f"/etc/{name}", stored=True))
        place = spec_gen.Place(
            rootfs=str(self._settings.rootfs_dir),
            hostname=hostname,
            cgroups_path=cgroups_path,
            user=self.user_of(container, rootfs),
            mounts=mounts,
            host_network=not own_network,
            init_program=self.init_program(container),
            link_env=container.link_env,
            joined_namespaces=shared.namespaces,
            shm_source=shared.shm_source,
            cdi_spec_dirs=self._settings.cdi_spec_dirs,
            user_ids=None if options.userns_mode == "host" else self._settings.user_ids,
        )
        spec = spec_gen.generate(options, place)
        if seccomp := spec["linux"].pop("seccomp", None):
            self._use_filter(seccomp)
            _write(f"{directory}/seccomp.bpf", self._filter.program)
        _write(f"{directory}/config.json", _document(spec, self._filter.text if seccomp else "").encode())
        return spec

    def _write_names(
        self, directory: str, container: Container, member: Membership, hostname: str, linked: Sequence[Linked]
    ) -> None:
        """/etc/hostname, /etc/hosts and /etc/resolv.conf."""
        options = container.options
        host_gateway = self._settings.host_gateway_ip or member.host_gateway
        others = [(str(one.address), one.host_names) for one in linked]
        if member.own_gateway and not member.resolver_address:  # else that one says so
            others += [(host_gateway, HOST_NAME), (member.own_gateway, GATEWAY_NAME)]
        hosts = files.hosts(options, hostname, member.addresses, host_gateway, others)
        resolv_conf = files.resolv_conf(options, not member.shares_host, member.resolver_address)
        _write(f"{directory}/hostname", f"{hostname}\n".encode())
        _write(f"{directory}/hosts", hosts.encode())
        _write(f"{directory}/resolv.conf", resolv_conf.encode())

    def _use_filter(self, seccomp: Any) -> None:
        # The default profile is always the same object: to look it up by its content would cost more than all else.
        if self._filter.profile is not seccomp:
            program = compile_filter(seccomp, self._settings.seccomp_cache)
            self._filter = _Filter(seccomp, _encode(seccomp), program)


class _Filter(NamedTuple):
    """The latest seccomp profile, its JSON, and the program it compiles to."""

    profile: Any
    text: str
    program: bytes


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _document(spec: dict[str, Any], seccomp: str) -> str:
    """config.json of a spec without linux.seccomp, and that: two thirds of it all, and nearly always the same."""
    if not seccomp:
        return _encode(spec)
    linux = _encode(spec["linux"])
    others = _encode({name: value for name, value in spec.items() if name != "linux"})
    return f'{others[:-1]},"linux":{linux[:-1]},"seccomp":{seccomp}}}}}'


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        if os.write(fd, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(fd)
