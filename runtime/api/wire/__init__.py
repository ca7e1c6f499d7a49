"""Docker's JSON documents, made from the engine's objects. Field names and formats: the Engine API's definitions."""

from runtime.api.wire.build import CACHE_TYPE, build_error, build_line, cache_entry
from runtime.api.wire.containers import config, container_inspect, container_summary, exec_inspect
from runtime.api.wire.files import committed_config, path_stat
from runtime.api.wire.images import (
    found_image,
    image_created_ns,
    image_history,
    image_inspect,
    image_manifest,
    image_summary,
    platform_of,
)
from runtime.api.wire.info import info, version
from runtime.api.wire.networks import endpoints, network, network_summary
from runtime.api.wire.progress import error_line, message_line, progress_lines
from runtime.api.wire.stats import container_stats
from runtime.api.wire.system import event
from runtime.api.wire.times import NEVER, human_duration, parse_timestamp, timestamp
from runtime.api.wire.volumes import volume

__all__ = [
    "CACHE_TYPE",
    "NEVER",
    "build_error",
    "build_line",
    "cache_entry",
    "committed_config",
    "config",
    "container_inspect",
    "container_stats",
    "container_summary",
    "endpoints",
    "error_line",
    "event",
    "exec_inspect",
    "found_image",
    "human_duration",
    "image_created_ns",
    "image_history",
    "image_inspect",
    "image_manifest",
    "image_summary",
    "info",
    "message_line",
    "network",
    "network_summary",
    "parse_timestamp",
    "path_stat",
    "platform_of",
    "progress_lines",
    "timestamp",
    "version",
    "volume",
]
