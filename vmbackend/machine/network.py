"""The network between this computer and the guest."""

import ipaddress
from dataclasses import dataclass

from vmbackend.images.guest_image import GuestImage

# Of a subnet somebody chose, as QEMU counts in its own.
_GATEWAY_NUMBER, _DNS_NUMBER, _GUEST_NUMBER = 2, 3, 15


@dataclass(frozen=True)
class GuestNetwork:
    """QEMU's user network: `address` is the guest's with its prefix; `gateway` is this computer."""

    address: ipaddress.IPv4Interface
    gateway: str
    dns: str

    @classmethod
    def of(cls, subnet: str, image: GuestImage) -> "GuestNetwork":
        """The one chosen, or else the image's own."""
        if not subnet:
            return cls(ipaddress.IPv4Interface(image.address), image.gateway, image.dns)
        network = ipaddress.IPv4Network(subnet)
        return cls(
            ipaddress.IPv4Interface(f"{network[_GUEST_NUMBER]}/{network.prefixlen}"),
            str(network[_GATEWAY_NUMBER]),
            str(network[_DNS_NUMBER]),
        )
