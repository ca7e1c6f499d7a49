"""What the guest is told of the settings."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.test_vmbackend_argv import IMAGE
from vmbackend.errors import InvalidSettings
from vmbackend.machine.config import MachineSettings
from vmbackend.machine.guest_settings import certificates_text, hand_in, settings_text
from vmbackend.machine.network import GuestNetwork
from vmbackend.machine.paths import MachinePaths

USUAL = GuestNetwork.of("", IMAGE)
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"


def test_a_usual_machine_is_told_nothing(tmp_path: Path) -> None:
    assert hand_in(MachinePaths(tmp_path), MachineSettings(), IMAGE) == {}
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_not_as_usual_is_told() -> None:
    settings = MachineSettings(dns=("1.1.1.1", "9.9.9.9"), swap_mib=64, no_proxy="a.example,10.0.0.0/8")
    assert settings_text(settings, USUAL) == "dns=1.1.1.1 9.9.9.9\nswap_mib=64\nno_proxy=a.example,10.0.0.0/8\n"
    other = MachineSettings(subnet="192.168.77.0/24")
    told = settings_text(other, GuestNetwork.of(other.subnet, IMAGE))
    assert told == "address=192.168.77.15/24\ngateway=192.168.77.2\ndns=192.168.77.3\n"


@pytest.mark.parametrize(
    ("proxy", "seen"),
    [
        ("http://proxy.example.com:3128", "http://proxy.example.com:3128"),
        ("http://127.0.0.1:3128", "http://10.0.2.2:3128"),
        ("http://user:p%40ss@localhost:3128", "http://user:p%40ss@10.0.2.2:3128"),
        ("http://[::1]:3128", "http://10.0.2.2:3128"),
    ],
)
def test_a_proxy_on_this_computer_is_at_the_guests_gateway(proxy: str, seen: str) -> None:
    assert settings_text(MachineSettings(http_proxy=proxy), USUAL) == f"http_proxy={seen}\n"


def test_what_is_told_is_private_and_goes_when_it_is_not_needed_any_more(tmp_path: Path) -> None:
    paths = MachinePaths(tmp_path)
    image = replace(IMAGE, fw_cfg={"settings": "opt/settings", "ca_certificates": "opt/ca"})
    authority = tmp_path / "authority.pem"
    authority.write_text(PEM)
    settings = MachineSettings(https_proxy="http://u:secret@p:1", ca_certificates=(str(authority),))
    assert hand_in(paths, settings, image) == {"opt/settings": paths.guest_settings, "opt/ca": paths.ca_certificates}
    assert paths.guest_settings.read_text() == "https_proxy=http://u:secret@p:1\n"
    assert stat.S_IMODE(paths.guest_settings.stat().st_mode) == 0o600
    assert paths.ca_certificates.read_text() == f"{PEM}\n"
    assert hand_in(paths, MachineSettings(), image) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["authority.pem"]


def test_an_image_that_cannot_be_told_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="guest image 1 is too old for some of the machine's settings"):
        hand_in(MachinePaths(tmp_path), MachineSettings(swap_mib=1), IMAGE)


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"/nowhere\.pem, which cannot be read .No such file"):
        certificates_text(MachineSettings(ca_certificates=("/nowhere.pem",)))
    binary = tmp_path / "a.der"
    binary.write_bytes(b"\x30\x82\xff\xff")
    with pytest.raises(InvalidSettings, match=r"a\.der, which cannot be read .it is no text"):
        certificates_text(MachineSettings(ca_certificates=(str(binary),)))
    binary.write_text("text")
    with pytest.raises(InvalidSettings, match=r"a\.der, which has no certificate in PEM form"):
        certificates_text(MachineSettings(ca_certificates=(str(binary),)))
