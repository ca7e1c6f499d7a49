"""contract.json: what the host must know about a guest image, as data beside it."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guest.builder.arch import Architecture
from guest.builder.parts import sha256_of

CONTRACT = "contract.json"
SCHEMA = 1
VERSION = "0.1.0"

FILES = {"kernel": "kernel", "initramfs": "initramfs.cpio", "system": "system.squashfs"}
"""What each file is for -> its name in the image folder."""

KERNEL_COMMAND_LINE = ("quiet", "panic=-1", "reboot=t", "audit=0", "random.trust_cpu=on")
EMULATION_COMMAND_LINE = ("mitigations=off", "tsc=reliable", "tsc_early_khz={tsc_khz}")
"""What the host appends on x86_64 when QEMU emulates (TCG), with its own time stamp counter's frequency filled in.

Emulation does not speculate, so mitigations only cost. And without the frequency the kernel measures the counter
against the PIT; on a busy host that fails, and on microvm (ACPI hardware-reduced: no PIT interrupt, HPET or PM
timer) it then hangs for ever. A host that cannot tell its frequency leaves the last two words out and uses q35.
"""
READY_LINE = "wherry: engine ready"
ENGINE_ENDED_LINE = "the engine ended with exit code"
"""What the console shows each time the engine ends; see ``image/overlay/usr/lib/wherry/engine``."""


def contract(arch: Architecture, folder: Path, built_from: Mapping[str, Any], store_schema: int) -> dict[str, Any]:
    """The contract of the image whose files lie in ``folder``.

    ``built_from`` tells where it came from: ``inputs_sha256`` and the version of every part. ``store_schema`` is the
    newest schema of a store that the image's engine reads.
    """
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "arch": arch.name,
        "built_from": dict(built_from),
        "files": {purpose: describe_file(folder / name) for purpose, name in FILES.items()},
        "cmdline": " ".join(KERNEL_COMMAND_LINE),
        "cmdline_tcg": " ".join(EMULATION_COMMAND_LINE) if arch.name == "x86_64" else "",
        "machines": list(arch.machines),
        "system_serial": "wherry-system",
        "data_serial": "wherry-data",
        "fw_cfg": {
            "authorized_keys": "opt/org.wherry/authorized_keys",
            "host_key": "opt/org.wherry/ssh_host_ed25519_key",
            "time": "opt/org.wherry/time",
            "hostname": "opt/org.wherry/hostname",
            "settings": "opt/org.wherry/settings",
            "ca_certificates": "opt/org.wherry/ca_certificates",
            "shares": "opt/org.wherry/shares",
        },
        "network": {"address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": "10.0.2.3"},
        "ssh": {"port": 22, "user": "root", "ready": "Server listening on"},
        "ports_channel": "org.wherry.ports",
        "engine_socket": "/run/wherry/docker.sock",
        "ready": READY_LINE,
        "engine_ended": ENGINE_ENDED_LINE,
        "store_schema": store_schema,
        "hold": {"cmdline": "wherry.hold", "held": "wherry: held", "over": "data disk mounted"},
        "poweroff": "/sbin/poweroff",
        "grow_data_disk": "/usr/lib/wherry/grow-data-disk",
    }


def store_schema_of(runtime: Path) -> int:
    """The schema that the engine in the folder ``runtime`` writes. Its table of migrations imports nothing of it."""
    schema: int = runpy.run_path(str(runtime / "engine/migrations.py"))["SCHEMA_VERSION"]
    return schema


def describe_file(path: Path) -> dict[str, Any]:
    """Name, sha256 and size of one file of the image."""
    return {"name": path.name, "sha256": sha256_of(path), "size_bytes": path.stat().st_size}


def write_contract(document: Mapping[str, Any], folder: Path) -> None:
    """Write contract.json last and at once: a folder with a contract is complete."""
    unfinished = folder / f"{CONTRACT}.unfinished"
    unfinished.write_text(json.dumps(document, indent=2) + "\n")
    unfinished.replace(folder / CONTRACT)
