"""A container's OCI bundle: config.json, its seccomp program, and the files of /etc that an engine writes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.content.merged import read_in_layers
from runtime.content.snapshots import OverlayRootfs
from runtime.content.users import GROUP_PATH, PASSWD_PATH, ResolvedUser, resolve_user
from runtime.engine import files, spec_gen
from runtime.engine.container import Container
from runtime.engine.container_mounts import ContainerMounts
from runtime.engine.links import Linked
from runtime.engine.networks import Membership
from runtime.engine.settings import EngineSettings
from runtime.errors import NotSupported
from runtime.linux.seccomp import compile_filter
from runtime.network.dns.view import GATEWAY_NAME, HOST_NAME

INIT_PROGRAMS = ("/usr/bin/tini-static", "/usr/libexec/docker/docker-init", "/usr/bin/docker-init")


class Bundles:
    """Writes bundles from containers' options and the facts of this host."""

    def __init__(self, settings: EngineSettings, mounts: ContainerMounts) -> None:
        self._settings = settings
        self._mounts = mounts

    def user_of(self, container: Container, rootfs: OverlayRootfs) -> ResolvedUser:
        def read(path: str) -> bytes | None:
            return read_in_layers(rootfs.lower, rootfs.upper, path)

        options = container.options
        group = read(GROUP_PATH) if options.user or options.groups else None
        return resolve_user(options.user, read(PASSWD_PATH), group, options.groups)

    def init_program(self, container: Container) -> str | None:
        if not container.options.init:
            return None
        found = next((path for path in INIT_PROGRAMS if Path(path).is_file()), None)
        if found is None:
            raise NotSupported("--init needs an init program: install tini (on Debian: apt install tini)")
        return found

    def write(
        self, container: Container, rootfs: OverlayRootfs, member: Membership, linked: Sequence[Linked] = ()
    ) -> dict[str, Any]:
        options, directory = container.options, container.directory
        own_network = not member.shares_host
        hostname = os.uname().nodename if options.uts_mode == "host" else container.hostname
        host_gateway = self._settings.host_gateway_ip or member.host_gateway
        others = [(str(one.address), one.host_names) for one in linked]
        if member.own_gateway and not member.resolver_address:  # else that one says so
            others += [(host_gateway, HOST_NAME), (member.own_gateway, GATEWAY_NAME)]
        container.link_env = [entry for one in linked for entry in one.environment()]
        contents = {
            "hostname": f"{hostname}\n",
            "hosts": files.hosts(options, hostname, member.addresses, host_gateway, others),
            "resolv.conf": files.resolv_conf(options, own_network, member.resolver_address),
        }
        mounts = self._mounts.resolved(container)
        targets = {mount.target for mount in mounts}
        for name, text in contents.items():
            (directory / name).write_text(text)
            if f"/etc/{name}" not in targets:
                mounts.append(spec_gen.HostMount(str(directory / name), f"/etc/{name}"))
        place = spec_gen.Place(
            rootfs=str(directory / "rootfs"),
            hostname=hostname,
            cgroups_path=f"{self._settings.cgroup_parent}/{container.id}",
            user=self.user_of(container, rootfs),
            mounts=mounts,
            host_network=not own_network,
            init_program=self.init_program(container),
            link_env=container.link_env,
        )
        spec = spec_gen.generate(options, place)
        (directory / "config.json").write_text(json.dumps(spec, separators=(",", ":")))
        if seccomp := spec["linux"].get("seccomp"):
            (directory / "seccomp.bpf").write_bytes(compile_filter(seccomp, self._settings.seccomp_cache))
        return spec
