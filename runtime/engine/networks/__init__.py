"""Networks: their definitions, the containers on them, and what these call each other."""

from runtime.engine.networks.attachments import Attachment, Membership, PublishedPort, dns_names
from runtime.engine.networks.model import Network, Subnet
from runtime.engine.networks.resolution import NamedEndpoint, Resolver
from runtime.engine.networks.service import NetworkService

__all__ = [
    "Attachment",
    "Membership",
    "NamedEndpoint",
    "Network",
    "NetworkService",
    "PublishedPort",
    "Resolver",
    "Subnet",
    "dns_names",
]
