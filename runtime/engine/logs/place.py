"""Where a container's log is, and what its options put into every record."""

from __future__ import annotations

from pathlib import Path

from runtime.engine.container import Container
from runtime.engine.logs.writer import Log, LogWriter, NoLog
from runtime.engine.options import expand_tag


def log_path(container: Container) -> Path:
    if container.options.log.driver == "local":
        return container.directory / "local-logs" / "container.log"
    return container.directory / f"{container.id}-json.log"


def open_log(container: Container) -> Log:
    """Open the container's log for writing; raises OSError."""
    options = container.options.log
    container.log_fault = ""
    if options.driver == "none":
        return NoLog()
    path = log_path(container)
    if options.driver == "local":
        path.parent.mkdir(mode=0o700, exist_ok=True)

    def on_fault(fault: str) -> None:
        container.log_fault = fault

    return LogWriter(path, options, attributes_of(container), on_fault)


def attributes_of(container: Container) -> dict[str, str]:
    """Chosen labels and variables, and the tag."""
    options = container.options.log
    if not options.tag:
        return dict(options.attributes)
    image_id = container.image_id.removeprefix("sha256:")
    fields = {
        "ID": container.id[:12],
        "FullID": container.id,
        "Name": container.name,
        "ImageName": container.image_name,
        "ImageID": image_id[:12],
        "ImageFullID": container.image_id,
        "DaemonName": "docker",
        "Command": " ".join(container.options.args),
    }
    return {**options.attributes, "tag": expand_tag(options.tag, fields)}
