"""QEMU's command line as a pure function of facts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmbackend import host
from vmbackend.host.candidate import Candidate
from vmbackend.images.guest_image import GuestImage
from vmbackend.machine.network import GuestNetwork

# How virtio devices are attached, by machine type. microvm has no PCI bus, which is why it starts sooner.
_VIRTIO_SUFFIX = {"microvm": "device", "q35": "pci", "virt": "pci"}
_MACHINE_OPTIONS = {"microvm": "microvm,acpi=on", "q35": "q35", "virt": "virt"}
_CONSOLE = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}

# Pages the guest does not use are given back to this computer; where it takes none, QEMU would complain of each.
_FREE_PAGE_REPORTING = ",free-page-reporting=on" if host.TAKES_PAGES_BACK else ""

NETDEV = "net0"
PORTS_CHARDEV = "ports"
SHARES_CHARDEV = "shares"
# The virtio port that carries the shares' files: both its ends are ours.
SHARES_CHANNEL = "org.wherry.shares"
DATA_DRIVE = "data"
# A write that finds no room on this computer's disk pauses the guest instead of failing in it: it can go on later.
_DATA_DISK_OPTIONS = "format=qcow2,discard=unmap,detect-zeroes=unmap,werror=enospc"

EMULATION = {
    # Several threads: each virtual CPU on its own. A named model: `max` with two CPUs has crashed guests on QEMU 7.2.
    # The buffer of translated code is never returned. A boot fills 200 MiB; in a third of that it takes a fifth longer.
    "x86_64": Candidate("tcg", "Westmere", options="thread=multi,tb-size=128"),
    "aarch64": Candidate("tcg", "cortex-a72", options="thread=multi,tb-size=128"),
}


@dataclass(frozen=True)
class LaunchFacts:
    """All that a command line depends on.

    `qmp_address`, `console_address`, `ports_address` and `shares_address` are listening sockets of ours (`unix:PATH` or
    `tcp:HOST:PORT`): QEMU connects to them, so nobody else can. On `rescue_socket`, in a private folder, it listens
    for a second monitor. `handed_in_files` and `handed_in_texts` map firmware configuration names to files and to short
    texts. `tsc_khz` spares an emulated x86 guest from measuring its clock. `incoming`: the guest's state will be read
    in through QMP, and the guest stays paused after that. `held`: it stops before it reads its data disk.
    """

    program: Path
    image: GuestImage
    machine: str
    accelerator: Candidate
    cpus: int
    memory_mib: int
    data_disk: Path
    qmp_address: str
    rescue_socket: Path | None
    console_address: str
    console_log: Path
    ports_address: str
    shares_address: str
    network: GuestNetwork
    tsc_khz: int | None
    handed_in_files: Mapping[str, Path]
    handed_in_texts: Mapping[str, str]
    incoming: bool = False
    held: bool = False


def build_argv(facts: LaunchFacts) -> list[str]:
    """The argument list, program first."""
    image, suffix = facts.image, _VIRTIO_SUFFIX[facts.machine]
    network = facts.network
    return [
        *_base(facts.program, facts.machine, facts.accelerator, facts.cpus, facts.memory_mib),
        *("-kernel", str(image.kernel)),
        *("-initrd", str(image.initramfs)),
        *("-append", _cmdline(facts)),
        *("-chardev", f"socket,id=qmp,{_socket(facts.qmp_address)}"),
        *("-mon", "chardev=qmp,mode=control"),
        *_rescue_monitor(facts.rescue_socket),
        *("-chardev", f"socket,id=console,{_socket(facts.console_address)},logfile={_escaped(facts.console_log)}"),
        *("-serial", "chardev:console"),
        *_disk("system", image.system, image.system_serial, suffix, "format=raw,readonly=on"),
        *_disk(DATA_DRIVE, facts.data_disk, image.data_serial, suffix, _DATA_DISK_OPTIONS),
        # QEMU picks the host's port itself: one chosen here could be taken a moment later.
        "-netdev",
        f"user,id={NETDEV},net={network.address.network},host={network.gateway},dns={network.dns},"
        f"hostfwd=tcp:127.0.0.1:0-{network.address.ip}:{image.ssh_port}",
        *("-device", f"virtio-net-{suffix},netdev={NETDEV}"),
        *("-device", f"virtio-rng-{suffix}"),
        *("-device", f"virtio-balloon-{suffix}{_FREE_PAGE_REPORTING}"),
        *("-chardev", f"socket,id={PORTS_CHARDEV},{_socket(facts.ports_address)}"),
        *("-device", f"virtio-serial-{suffix}"),
        *("-device", f"virtserialport,chardev={PORTS_CHARDEV},name={image.ports_channel}"),
        *("-chardev", f"socket,id={SHARES_CHARDEV},{_socket(facts.shares_address)}"),
        *("-device", f"virtserialport,chardev={SHARES_CHARDEV},name={SHARES_CHANNEL}"),
        *_fw_cfg(facts),
        *(("-S", "-incoming", "defer") if facts.incoming else ()),
    ]


def build_probe_argv(program: Path, image: GuestImage, machine: str, candidate: Candidate) -> list[str]:
    """The guest's kernel alone: it finds no root file system, says so on stdout, and resets, which ends QEMU."""
    return [
        *_base(program, machine, candidate, cpus=1, memory_mib=256),
        *("-kernel", str(image.kernel)),
        *("-append", f"quiet panic=-1 console={_CONSOLE[image.arch]}"),
        *("-serial", "stdio"),
    ]


def _base(program: Path, machine: str, candidate: Candidate, cpus: int, memory_mib: int) -> list[str]:
    return [
        str(program),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", _joined(_MACHINE_OPTIONS[machine], candidate.machine_options)),
        *("-accel", _joined(candidate.accelerator, candidate.options)),
        *("-cpu", candidate.cpu_model),
        *("-smp", str(cpus)),
        *("-m", f"{memory_mib}M"),
    ]


def _cmdline(facts: LaunchFacts) -> str:
    words = [facts.image.cmdline, f"console={_CONSOLE[facts.image.arch]}"]
    if facts.held:
        words.append(facts.image.hold_cmdline)
    if facts.tsc_khz is not None:
        words.append(facts.image.emulated_cmdline.format(tsc_khz=facts.tsc_khz))
    return " ".join(words)


def _disk(name: str, path: Path, serial: str, suffix: str, options: str) -> list[str]:
    return [
        *("-drive", f"if=none,id={name},file={_escaped(path)},{options}"),
        *("-device", f"virtio-blk-{suffix},drive={name},serial={serial}"),
    ]


def _rescue_monitor(path: Path | None) -> list[str]:
    if path is None:
        return []
    return [
        *("-chardev", f"socket,id=rescue,path={_escaped(path)},server=on,wait=off"),
        *("-mon", "chardev=rescue,mode=control"),
    ]


def _fw_cfg(facts: LaunchFacts) -> list[str]:
    arguments = []
    for name, path in facts.handed_in_files.items():
        arguments += ["-fw_cfg", f"name={name},file={_escaped(path)}"]
    for name, text in facts.handed_in_texts.items():
        arguments += ["-fw_cfg", f"name={name},string={text}"]
    return arguments


def _socket(address: str) -> str:
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return f"path={_escaped(rest)}"
    host, _, port = rest.rpartition(":")
    return f"host={host},port={port}"


def _joined(*parts: str) -> str:
    return ",".join(part for part in parts if part)


def _escaped(path: Path | str) -> str:
    """QEMU splits options at commas; a doubled one is a comma."""
    return str(path).replace(",", ",,")
