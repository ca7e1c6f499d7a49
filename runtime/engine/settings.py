"""Where an engine keeps its things, and the names it gives to what it makes in the kernel.

Engines with different data roots never share a bridge, an nft table, a cgroup or a directory.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from runtime.container.ids import Ids
from runtime.registry.hosts import RegistrySettings

DATA_ROOT_MODE = 0o710  # as dockerd's: the host's users have no way to what containers' roots make setuid


@dataclass(frozen=True)
class EngineSettings:
    """`data_root` survives a reboot, `run_dir` need not; both are made when missing."""

    data_root: Path
    run_dir: Path
    embedded_images: Path | None = None
    host_gateway_ip: str = ""  # the computer of whoever uses this engine; empty: a network's gateway
    port_broker: Path | None = None  # where that computer is asked for ports to publish; None: they are this host's
    registries: RegistrySettings = field(default_factory=RegistrySettings)
    user_ids: Ids | None = None  # those of containers' user namespaces; None: the host's own
    host_shares: Path | None = None  # a file that says what of the user's computer is mounted here: HostShares
    cdi_spec_dirs: tuple[Path, ...] = (Path("/etc/cdi"), Path("/var/run/cdi"))

    @cached_property
    def instance(self) -> str:
        """Six hex digits that tell this engine's kernel objects from another's."""
        return hashlib.sha256(str(self.data_root.resolve()).encode()).hexdigest()[:6]

    @property
    def bridge_name(self) -> str:
        return f"wherry{self.instance}"  # 12 characters: IFNAMSIZ allows 15

    @property
    def nft_table(self) -> str:
        return f"wherry_{self.instance}"

    @property
    def cgroup_parent(self) -> str:
        return f"/wherry-{self.instance}"

    @property
    def store_path(self) -> Path:
        return self.data_root / "engine.db"

    @cached_property
    def containers_dir(self) -> Path:
        return self.data_root / "containers"

    @cached_property
    def bundles_dir(self) -> Path:
        return self.run_dir / "bundles"

    @cached_property
    def rootfs_dir(self) -> Path:
        """An empty directory: every container mounts its root here, each in a mount namespace of its own."""
        return self.run_dir / "rootfs"

    @property
    def volumes_dir(self) -> Path:
        return self.data_root / "volumes"

    @property
    def seccomp_cache(self) -> Path:
        return self.run_dir / "seccomp"

    @property
    def output_journal(self) -> Path:
        return self.run_dir / "output"

    @property
    def lock_path(self) -> Path:
        return self.run_dir / "engine.lock"
