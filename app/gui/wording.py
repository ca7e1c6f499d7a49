"""Numbers, times and states in words."""

from app.core.translations import tr
from app.gui.theme import Tone

MINUTE_S, HOUR_S, DAY_S, MONTH_S, YEAR_S = 60, 3600, 86_400, 30 * 86_400, 365 * 86_400


def age(seconds: float) -> str:
    """How long ago, in one unit: "12 s ago", "3 d ago"; short, because it stands in a column."""
    past_s = max(0, int(seconds))
    if past_s < MINUTE_S:
        return tr("just now")
    if past_s < HOUR_S:
        return tr("{count} min ago", count=past_s // MINUTE_S)
    if past_s < DAY_S:
        return tr("{count} h ago", count=past_s // HOUR_S)
    if past_s < 2 * MONTH_S:
        return tr("{count} d ago", count=past_s // DAY_S)
    if past_s < 2 * YEAR_S:
        return tr("{count} months ago", count=past_s // MONTH_S)
    return tr("{count} years ago", count=past_s // YEAR_S)


def size(size_bytes: int) -> str:
    """Bytes in the decimal units registries use: "7.8 MB"."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def memory(size_bytes: int) -> str:
    """Bytes of memory in binary units: "3.8 GiB"."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def container_state(state: str) -> tuple[str, Tone]:
    """Docker's container state (running, exited, …) as a word and a tone."""
    match state:
        case "running":
            return tr("Running"), "success"
        case "paused":
            return tr("Paused"), "warning"
        case "restarting":
            return tr("Restarting"), "warning"
        case "created":
            return tr("Not started"), "info"
        case "removing":
            return tr("Removing"), "warning"
        case "dead":
            return tr("Dead"), "danger"
        case "exited":
            return tr("Stopped"), "neutral"
    return state, "neutral"


def pending(verb: str) -> str:
    """What a container is called while `verb` is under way."""
    match verb:
        case "start":
            return tr("Starting…")
        case "stop":
            return tr("Stopping…")
        case "restart":
            return tr("Restarting…")
    return tr("Removing…")


def phase(name: str) -> str:
    """A step of starting or stopping an engine, as a backend names it, in words; unknown ones as they are."""
    words = {
        "Starting the engine": tr("Starting the engine…"),
        "Stopping the engine": tr("Stopping the engine…"),
        "Stopping the machine": tr("Stopping the virtual machine…"),
        "prepared": tr("Preparing the virtual machine's disk…"),
        "qemu started": tr("Starting the virtual machine…"),
        "qmp": tr("Starting the virtual machine…"),
        "kernel": tr("Starting Linux in the virtual machine…"),
        "new guest image": tr("Starting the new version of the virtual machine's system…"),
        "old guest image": tr("Going back to the old version of the virtual machine's system…"),
        "held": tr("Starting Linux in the virtual machine…"),
        "ssh": tr("Connecting to the virtual machine…"),
        "engine": tr("Starting the engine in the virtual machine…"),
    }
    return words.get(name, name)
