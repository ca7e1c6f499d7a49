"""Settings the guest has to know, as it reads them: lines of NAME=VALUE, and a file of certificates.

They go as files, not on QEMU's command line, which every user of this computer can read: a proxy may have a password.
"""

from pathlib import Path
from urllib.parse import urlsplit

from vmbackend.errors import InvalidSettings
from vmbackend.images.guest_image import GuestImage
from vmbackend.machine.config import MachineSettings
from vmbackend.machine.network import GuestNetwork
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.store import write_atomically

_BEGIN_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_LOOPBACK_NAMES = ("localhost", "::1")


def hand_in(paths: MachinePaths, settings: MachineSettings, image: GuestImage) -> dict[str, Path]:
    """Write what the guest has to know of the settings; firmware configuration names to files.

    Nothing for a machine whose settings are the usual ones, which saves its boot some work. Raises InvalidSettings,
    OSError.
    """
    contents = {
        "settings": settings_text(settings, GuestNetwork.of(settings.subnet, image)),
        "ca_certificates": certificates_text(settings),
    }
    files = {"settings": paths.guest_settings, "ca_certificates": paths.ca_certificates}
    handed_in = {}
    for what, text in contents.items():
        if not text:
            files[what].unlink(missing_ok=True)
            continue
        if what not in image.fw_cfg:
            raise InvalidSettings(
                f"The guest image {image.version} is too old for some of the machine's settings ({what}); update it, "
                "or put the settings back."
            )
        write_atomically(files[what], text)
        handed_in[image.fw_cfg[what]] = files[what]
    return handed_in


def settings_text(settings: MachineSettings, network: GuestNetwork) -> str:
    """Only what is not as usual, which the guest knows by itself."""
    chosen = network if settings.subnet else None
    values = {
        "address": chosen and str(chosen.address),
        "gateway": chosen and chosen.gateway,
        "dns": " ".join(settings.dns) or (chosen and chosen.dns),
        "swap_mib": settings.swap_mib,
        "http_proxy": _as_the_guest_sees(settings.http_proxy, network.gateway),
        "https_proxy": _as_the_guest_sees(settings.https_proxy, network.gateway),
        "no_proxy": settings.no_proxy,
    }
    return "".join(f"{name}={value}\n" for name, value in values.items() if value)


def certificates_text(settings: MachineSettings) -> str:
    """All certificate files in one. Raises InvalidSettings naming the one that cannot be used."""
    texts = []
    for name in settings.ca_certificates:
        try:
            text = Path(name).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no text"
            raise InvalidSettings(
                f"The setting `ca_certificates` names {name}, which cannot be read ({reason}); correct the setting."
            ) from error
        if _BEGIN_CERTIFICATE not in text:
            raise InvalidSettings(
                f"The setting `ca_certificates` names {name}, which has no certificate in PEM form; convert it with "
                "`openssl x509 -inform der`, or correct the setting."
            )
        texts.append(text if text.endswith("\n") else f"{text}\n")
    return "".join(texts)


def _as_the_guest_sees(proxy: str, gateway: str) -> str:
    """A proxy on this computer's loopback is at the guest's gateway."""
    url = urlsplit(proxy)
    host = url.hostname or ""
    if host not in _LOOPBACK_NAMES and not host.startswith("127."):
        return proxy
    login, at, _ = url.netloc.rpartition("@")
    port = f":{url.port}" if url.port else ""
    return url._replace(netloc=f"{login}{at}{gateway}{port}").geturl()
