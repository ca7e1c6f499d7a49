"""QEMU's command line, from facts."""

from dataclasses import replace
from pathlib import Path

import pytest

from vmbackend.host.candidate import Candidate
from vmbackend.images.guest_image import GuestImage
from vmbackend.machine.network import GuestNetwork
from vmbackend.qemu.argv import EMULATION, LaunchFacts, build_argv, build_probe_argv

IMAGE = GuestImage(
    directory=Path("/image"),
    version="1",
    digest="d1",
    arch="x86_64",
    kernel=Path("/image/vmlinuz"),
    initramfs=Path("/image/initramfs"),
    system=Path("/image/system.squashfs"),
    cmdline="quiet",
    emulated_cmdline="clock={tsc_khz}",
    machines=("microvm", "q35"),
    system_serial="the-system",
    data_serial="the-data",
    fw_cfg={},
    address="10.0.2.15/24",
    gateway="10.0.2.2",
    dns="10.0.2.3",
    ssh_port=22,
    ssh_user="root",
    ports_channel="the.ports",
    engine_socket="/run/engine.sock",
    ready_line="ready",
    ssh_ready_line="ssh",
    poweroff_command="poweroff",
    grow_data_disk_command="grow",
)
FACTS = LaunchFacts(
    program=Path("/usr/bin/qemu"),
    image=IMAGE,
    machine="microvm",
    accelerator=Candidate("kvm", "host"),
    cpus=3,
    memory_mib=1500,
    data_disk=Path("/m/data.qcow2"),
    qmp_address="unix:/m/qmp.sock",
    rescue_socket=Path("/m/rescue.sock"),
    console_address="tcp:127.0.0.1:4711",
    console_log=Path("/m/console.log"),
    network=GuestNetwork.of("", IMAGE),
    ports_address="unix:/m/ports.sock",
    shares_address="unix:/m/shares.sock",
    tsc_khz=None,
    handed_in_files={"opt/key": Path("/m/key")},
    handed_in_texts={"opt/time": "12"},
)


def values(argv: list[str], option: str) -> list[str]:
    return [argv[index + 1] for index, word in enumerate(argv) if word == option]


def test_sizes_and_accelerator() -> None:
    argv = build_argv(FACTS)
    assert argv[0] == "/usr/bin/qemu"
    assert values(argv, "-smp") == ["3"]
    assert values(argv, "-m") == ["1500M"]
    assert values(argv, "-accel") == ["kvm"]
    assert values(argv, "-cpu") == ["host"]
    assert values(argv, "-machine") == ["microvm,acpi=on"]


@pytest.mark.parametrize(("machine", "suffix"), [("microvm", "device"), ("q35", "pci")])
def test_devices_hang_on_the_machines_bus(machine: str, suffix: str) -> None:
    devices = values(build_argv(replace(FACTS, machine=machine)), "-device")
    assert [device.split(",")[0] for device in devices] == [
        f"virtio-blk-{suffix}",
        f"virtio-blk-{suffix}",
        f"virtio-net-{suffix}",
        f"virtio-rng-{suffix}",
        f"virtio-balloon-{suffix}",
        f"virtio-serial-{suffix}",
        "virtserialport",
        "virtserialport",
    ]
    assert "serial=the-system" in devices[0] and "serial=the-data" in devices[1]


def test_an_arm64_machine_has_a_pl011_and_pci() -> None:
    image = replace(IMAGE, arch="aarch64", machines=("virt",))
    argv = build_argv(replace(FACTS, image=image, machine="virt", accelerator=EMULATION["aarch64"]))
    assert values(argv, "-machine") == ["virt"]
    assert values(argv, "-cpu") == ["cortex-a72"]
    assert values(argv, "-append") == ["quiet console=ttyAMA0"]
    assert {device.split(",")[0] for device in values(argv, "-device")} >= {"virtio-blk-pci", "virtio-net-pci"}


def test_the_system_image_is_never_written_and_the_data_disk_gives_blocks_back() -> None:
    system, data = values(build_argv(FACTS), "-drive")
    assert "readonly=on" in system
    assert "discard=unmap" in data and "readonly" not in data


def test_ssh_is_forwarded_from_loopback_on_a_port_qemu_picks() -> None:
    (netdev,) = values(build_argv(FACTS), "-netdev")
    assert "hostfwd=tcp:127.0.0.1:0-10.0.2.15:22" in netdev
    assert "net=10.0.2.0/24,host=10.0.2.2,dns=10.0.2.3," in netdev


def test_the_network_can_be_another() -> None:
    (netdev,) = values(build_argv(replace(FACTS, network=GuestNetwork.of("192.168.77.0/24", IMAGE))), "-netdev")
    assert "net=192.168.77.0/24,host=192.168.77.2,dns=192.168.77.3,hostfwd=tcp:127.0.0.1:0-192.168.77.15:22" in netdev


def test_qemu_connects_to_us_and_listens_only_in_the_private_folder() -> None:
    argv = build_argv(FACTS)
    assert values(argv, "-chardev")[1] == "socket,id=rescue,path=/m/rescue.sock,server=on,wait=off"
    argv = build_argv(replace(FACTS, rescue_socket=None))
    qmp, console, ports, _ = values(argv, "-chardev")
    assert ports == "socket,id=ports,path=/m/ports.sock"
    assert qmp == "socket,id=qmp,path=/m/qmp.sock"
    assert console.startswith("socket,id=console,host=127.0.0.1,port=4711,")
    assert "server=" not in " ".join(argv)


@pytest.mark.parametrize(("machine", "suffix"), [("microvm", "device"), ("q35", "pci")])
def test_ports_are_asked_for_and_files_carried_on_virtio_ports(machine: str, suffix: str) -> None:
    argv = build_argv(replace(FACTS, machine=machine))
    assert values(argv, "-chardev")[-2:] == [
        "socket,id=ports,path=/m/ports.sock",
        "socket,id=shares,path=/m/shares.sock",
    ]
    assert values(argv, "-device")[-3:] == [
        f"virtio-serial-{suffix}",
        "virtserialport,chardev=ports,name=the.ports",
        "virtserialport,chardev=shares,name=org.wherry.shares",
    ]


def test_what_is_handed_in() -> None:
    assert values(build_argv(FACTS), "-fw_cfg") == ["name=opt/key,file=/m/key", "name=opt/time,string=12"]


def test_a_comma_in_a_path_does_not_end_the_option() -> None:
    argv = build_argv(replace(FACTS, data_disk=Path("/a,b/data.qcow2")))
    assert "file=/a,,b/data.qcow2" in values(argv, "-drive")[1]


def test_the_clocks_rate_is_told_only_when_known() -> None:
    assert values(build_argv(FACTS), "-append") == ["quiet console=ttyS0"]
    assert values(build_argv(replace(FACTS, tsc_khz=2000)), "-append") == ["quiet console=ttyS0 clock=2000"]


def test_candidate_options_reach_machine_and_accelerator() -> None:
    candidate = Candidate("whpx", "max", options="kernel-irqchip=off", machine_options="usb=off")
    argv = build_probe_argv(Path("/q"), IMAGE, "q35", candidate)
    assert values(argv, "-accel") == ["whpx,kernel-irqchip=off"]
    assert values(argv, "-machine") == ["q35,usb=off"]


@pytest.mark.parametrize("arch", EMULATION)
def test_emulation_uses_a_named_cpu_model(arch: str) -> None:
    assert EMULATION[arch].cpu_model not in ("max", "host")


def test_a_guest_whose_state_comes_in_does_not_boot() -> None:
    argv = build_argv(replace(FACTS, incoming=True))
    assert argv[: argv.index("-S")] == build_argv(FACTS)
    assert values(argv, "-incoming") == ["defer"]
