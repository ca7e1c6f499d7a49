"""Networks: their definitions, the containers on them, and what these call each other."""

from runtime.engine.networks.attachments import Attachment, Membership, PublishedPort, dns_names
from runtime.engine.networks.model import Network, Subnet
from runtime.engine.networks.service import NetworkService

__all__ = [
    "Attachment",
    "Membership",
    "Network",
    "NetworkService",
    "PublishedPort",
    "Subnet",
    "dns_names",
]
