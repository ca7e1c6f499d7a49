"""What a client asked for, in the engine's own words; see `request.parse`."""

from runtime.engine.options.lifetime import merged_healthcheck
from runtime.engine.options.limits import merge_limits, verify_limits
from runtime.engine.options.links import parse_link
from runtime.engine.options.logs import expand_tag
from runtime.engine.options.model import (
    DeviceMapping,
    DeviceRequest,
    EndpointConfig,
    Healthcheck,
    LogOptions,
    MountRequest,
    Options,
    PortRequest,
    RestartPolicy,
)
from runtime.engine.options.mounts import VOLUME_NAME, anonymous_volume_name, volumes_from
from runtime.engine.options.mounts import merged as merged_mounts
from runtime.engine.options.networks import NetworkRequest, SubnetRequest, endpoint_config, network_request
from runtime.engine.options.ports import parse_port
from runtime.engine.options.request import parse
from runtime.engine.options.signals import parse_signal

__all__ = [
    "VOLUME_NAME",
    "DeviceMapping",
    "DeviceRequest",
    "EndpointConfig",
    "Healthcheck",
    "LogOptions",
    "MountRequest",
    "NetworkRequest",
    "Options",
    "PortRequest",
    "RestartPolicy",
    "SubnetRequest",
    "anonymous_volume_name",
    "endpoint_config",
    "expand_tag",
    "merge_limits",
    "merged_healthcheck",
    "merged_mounts",
    "network_request",
    "parse",
    "parse_link",
    "parse_port",
    "parse_signal",
    "verify_limits",
    "volumes_from",
]
