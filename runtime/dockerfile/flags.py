"""The `--flags` of instructions: which there are, and their values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.wording import did_you_mean


class Kind(Enum):
    """What a flag's value is."""

    BOOLEAN = auto()
    STRING = auto()
    STRINGS = auto()


FLAGS: dict[str, dict[str, Kind]] = {
    "ADD": {
        "chown": Kind.STRING,
        "chmod": Kind.STRING,
        "link": Kind.BOOLEAN,
        "keep-git-dir": Kind.BOOLEAN,
        "checksum": Kind.STRING,
        "unpack": Kind.BOOLEAN,
        "exclude": Kind.STRINGS,
    },
    "COPY": {
        "chown": Kind.STRING,
        "from": Kind.STRING,
        "chmod": Kind.STRING,
        "link": Kind.BOOLEAN,
        "parents": Kind.BOOLEAN,
        "exclude": Kind.STRINGS,
    },
    "FROM": {"platform": Kind.STRING},
    "HEALTHCHECK": {
        "interval": Kind.STRING,
        "timeout": Kind.STRING,
        "start-period": Kind.STRING,
        "start-interval": Kind.STRING,
        "retries": Kind.STRING,
    },
    "RUN": {"mount": Kind.STRINGS, "network": Kind.STRING, "security": Kind.STRING},
}
"""Instructions not named here have none."""


@dataclass(slots=True)
class Flags:
    """The values given, by flag."""

    strings: dict[str, str] = field(default_factory=dict)
    booleans: dict[str, bool] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)

    def string(self, name: str, default: str = "") -> str:
        return self.strings.get(name, default)

    def boolean(self, name: str) -> bool:
        return self.booleans.get(name, False)

    def values(self, name: str) -> tuple[str, ...]:
        return tuple(self.lists.get(name, ()))


def parse(written: Sequence[str], kinds: Mapping[str, Kind]) -> Flags:
    """Raises DockerfileError, in BuildKit's words."""
    flags = Flags()
    for word in written:
        name, equals, value = word.removeprefix("--").partition("=")
        shown = f"--{name}"
        kind = kinds.get(name)
        if kind is None:
            known = [f"--{flag}" for flag in kinds]
            raise DockerfileError(did_you_mean(f"unknown flag: {shown}", shown, known))
        if name in flags.strings or name in flags.booleans:
            raise DockerfileError(f"duplicate flag specified: {shown}")
        if (equals and not value) if kind is Kind.BOOLEAN else not equals:
            raise DockerfileError(f"missing a value on flag: {shown}")
        if kind is Kind.BOOLEAN:
            if value.lower() not in ("", "true", "false"):
                raise DockerfileError(f"expecting boolean value for flag {shown}, not: {value}")
            flags.booleans[name] = value.lower() != "false"
        elif kind is Kind.STRING:
            flags.strings[name] = value
        else:
            flags.lists.setdefault(name, []).append(value)
    return flags
