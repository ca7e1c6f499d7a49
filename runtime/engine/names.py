"""Containers' names: who has which, and those for containers nobody named: `calm_lighter`, an adjective and a boat."""

import random
import re
from collections.abc import Collection

from runtime.errors import AlreadyExists, InvalidParameter

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

ADJECTIVES = [
    "able",
    "agile",
    "amber",
    "brave",
    "bright",
    "brisk",
    "broad",
    "calm",
    "candid",
    "civil",
    "clean",
    "clear",
    "clever",
    "cool",
    "cosy",
    "crisp",
    "daring",
    "eager",
    "early",
    "easy",
    "fair",
    "fast",
    "fine",
    "firm",
    "fleet",
    "fond",
    "free",
    "fresh",
    "gentle",
    "glad",
    "golden",
    "good",
    "grand",
    "green",
    "handy",
    "happy",
    "hardy",
    "honest",
    "jolly",
    "keen",
    "kind",
    "light",
    "lively",
    "lucky",
    "mellow",
    "merry",
    "mild",
    "modest",
    "neat",
    "nimble",
    "noble",
    "patient",
    "plain",
    "polite",
    "proud",
    "quick",
    "quiet",
    "ready",
    "robust",
    "rosy",
    "royal",
    "safe",
    "sharp",
    "silver",
    "simple",
    "sleek",
    "smart",
    "smooth",
    "snug",
    "sober",
    "solid",
    "sound",
    "steady",
    "still",
    "stout",
    "sturdy",
    "sunny",
    "sure",
    "swift",
    "tidy",
    "trim",
    "true",
    "trusty",
    "upright",
    "vivid",
    "warm",
    "wise",
    "witty",
    "worthy",
    "young",
    "zesty",
]
BOATS = [
    "ark",
    "barge",
    "bark",
    "brig",
    "canoe",
    "caravel",
    "catboat",
    "clipper",
    "coble",
    "cog",
    "corvette",
    "cutter",
    "dhow",
    "dinghy",
    "dory",
    "drifter",
    "felucca",
    "ferry",
    "flatboat",
    "frigate",
    "galleon",
    "galley",
    "gig",
    "gondola",
    "hooker",
    "hoy",
    "junk",
    "kayak",
    "keelboat",
    "ketch",
    "launch",
    "lighter",
    "longship",
    "lugger",
    "outrigger",
    "packet",
    "pinnace",
    "pirogue",
    "praam",
    "proa",
    "punt",
    "raft",
    "sampan",
    "schooner",
    "scow",
    "scull",
    "shallop",
    "skiff",
    "sloop",
    "smack",
    "snow",
    "tartane",
    "tender",
    "tjalk",
    "trawler",
    "trimaran",
    "tug",
    "umiak",
    "wherry",
    "xebec",
    "yacht",
    "yawl",
    "zulu",
]


def check(name: str) -> str:
    """The name without a leading slash; raises InvalidParameter."""
    given, name = name, name.removeprefix("/")
    if not NAME.fullmatch(name):
        raise InvalidParameter(f"Invalid container name ({given}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name


def choose(taken: Collection[str]) -> str:
    while True:
        name = f"{random.choice(ADJECTIVES)}_{random.choice(BOATS)}"
        if name in taken:
            name += str(random.randrange(10, 1000))
        if name not in taken:
            return name


class NameTable:
    """Which container has which name; names come with or without a leading slash."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def find(self, name: str) -> str | None:
        return self._ids.get(name.removeprefix("/"))

    def take(self, name: str, id: str) -> str:
        """Give the container this name, "" for one of ours; raises AlreadyExists, InvalidParameter."""
        name = check(name) if name else choose(self._ids)
        if name in self._ids:
            raise AlreadyExists(
                f'Conflict. The container name "/{name}" is already in use by container "{self._ids[name]}". You have '
                "to remove (or rename) that container to be able to reuse that name."
            )
        self._ids[name] = id
        return name

    def release(self, name: str) -> None:
        self._ids.pop(name, None)
