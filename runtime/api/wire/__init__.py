"""Docker's JSON documents, made from the engine's objects. Field names and formats: the Engine API's definitions."""

from runtime.api.wire.containers import (
    config,
    exec_inspect,
    host_config,
    network_settings,
    ports_summary,
    state,
    status_text,
)
from runtime.api.wire.files import committed_config, path_stat
from runtime.api.wire.images import image_created_s, image_inspect, image_summary
from runtime.api.wire.info import info, version
from runtime.api.wire.networks import endpoints, network, network_summary
from runtime.api.wire.stats import container_stats
from runtime.api.wire.system import event
from runtime.api.wire.times import NEVER, human_duration, parse_timestamp, timestamp
from runtime.api.wire.volumes import mounts, volume

__all__ = [
    "NEVER",
    "committed_config",
    "config",
    "container_stats",
    "endpoints",
    "event",
    "exec_inspect",
    "host_config",
    "human_duration",
    "image_created_s",
    "image_inspect",
    "image_summary",
    "info",
    "mounts",
    "network",
    "network_settings",
    "network_summary",
    "parse_timestamp",
    "path_stat",
    "ports_summary",
    "state",
    "status_text",
    "timestamp",
    "version",
    "volume",
]
