"""Where a container's log is, and what its options put into every record."""

from __future__ import annotations

import logging
from pathlib import Path

from runtime.engine.container import Container
from runtime.engine.logs.journal import Journal, Pending
from runtime.engine.logs.writer import Log, LogWriter, NoLog
from runtime.engine.options import expand_tag

log = logging.getLogger(__name__)


def log_path(container: Container) -> Path:
    if container.options.log.driver == "local":
        return container.directory / "local-logs" / "container.log"
    return container.directory / f"{container.id}-json.log"


def open_log(container: Container, journal: Journal) -> Log:
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

    return LogWriter(path, options, attributes_of(container), journal, container.id, on_fault)


def finish_writing(container: Container, journal: Journal, pending: Pending) -> None:
    """Complete what a killed engine was writing to the container's log."""
    try:
        writer = open_log(container, journal)
    except OSError as error:
        log.warning("the last output of container %s is lost, its log cannot be opened: %s", container.id, error)
        return
    if isinstance(writer, LogWriter):
        writer.restore(pending)
        writer.release()


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
