"""Random layers: what overlayfs shows of them is what the OCI image-spec (layer.md, "Whiteouts") says it is."""

from __future__ import annotations

import io
import os
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from runtime.content.archive import unpack_layer
from runtime.content.merged import read_in_layers, stat_directory
from tests.fakes.images import Entry, directory, file, tar_of

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root: mounts, trusted xattrs")

PATHS = ("a", "a/b", "a/b/c", "a/d")
EXAMPLES = 100
Tree = dict[str, bytes | None]
"""Content by path, None for a directory."""


def random_layer(random: random.Random) -> list[Entry]:
    """In any order, for the order of whiteouts means nothing."""
    entries, files = [], set[str]()
    for path in PATHS:
        parent, _, name = path.rpartition("/")
        if any(f"{parent}/".startswith(f"{above}/") for above in files):
            continue
        kind = random.choice(["", "", "file", "directory", "directory"])
        if kind == "file":
            files.add(path)
            entries.append(file(path, random.randbytes(3).hex().encode()))
        elif kind == "directory":
            entries.append(directory(path))
            if random.random() < 0.1:
                entries.append(file(f"{path}/.wh..wh..opq"))
        if random.random() < 0.5:
            entries.append(file(f"{parent}/.wh.{name}".lstrip("/")))
    random.shuffle(entries)
    return entries


def applied(tree: Mapping[str, bytes | None], entries: list[Entry]) -> Tree:
    """First everything that hides what is below, then everything that is there."""
    shown = dict(tree)
    for info, _ in entries:
        parent, _, name = info.name.rpartition("/")
        if name == ".wh..wh..opq":
            shown = {path: data for path, data in shown.items() if not path.startswith(f"{parent}/")}
        elif name.startswith(".wh."):
            gone = f"{parent}/{name[4:]}".lstrip("/")
            shown = {path: data for path, data in shown.items() if path != gone and not path.startswith(f"{gone}/")}
    for info, data in sorted(entries, key=lambda entry: entry[0].name):
        name = info.name.rstrip("/")
        make_parents(shown, name.rpartition("/")[0])
        if "/.wh." in f"/{name}":
            continue
        if info.isdir():
            make_parents(shown, name)
        else:
            shown = {path: old for path, old in shown.items() if not path.startswith(f"{name}/")} | {name: data}
    return shown


def make_parents(shown: Tree, path: str) -> None:
    """A directory where there is none, in the place of a file as well."""
    for end in [place for place, mark in enumerate(f"{path}/") if mark == "/"] if path else []:
        if shown.get(path[:end], b"") is not None:
            shown[path[:end]] = None


def test_random_layers(tmp_path: Path) -> None:
    stacks: list[list[str]] = []
    expected: list[Tree] = []
    for number in range(EXAMPLES):
        chance = random.Random(number)
        shown: Tree = {}
        stack = []
        for height in range(chance.choice([2, 3, 4])):
            entries = random_layer(chance)
            shown = applied(shown, entries)
            layer = tmp_path / f"{number}-{height}"
            layer.mkdir()
            unpack_layer(io.BytesIO(tar_of(entries)), layer)
            stack.insert(0, str(layer))
        stacks.append(stack)
        expected.append(shown)
    for stack, shown, mounted in zip(stacks, expected, mounted_trees(stacks, tmp_path / "mnt"), strict=True):
        assert mounted == shown, stack
        for path in PATHS:
            assert read_in_layers(stack, None, path) == shown.get(path), (stack, path)
            assert (stat_directory(stack, path) is not None) == (path in shown and shown[path] is None), (stack, path)


def mounted_trees(stacks: list[list[str]], at: Path) -> list[Tree]:
    """What the kernel shows, in a mount namespace of its own."""
    at.mkdir()
    look = (
        'find "$0" -mindepth 1 -type d -printf "%P\\n" -o -type f -printf "%P=" -exec cat {} \\; -printf "\\n"; echo .'
    )
    script = "".join(
        f"mount -t overlay overlay -o lowerdir={':'.join(stack)} {at}\nsh -c '{look}' {at}\numount {at}\n"
        for stack in stacks
    )
    done = subprocess.run(["unshare", "--mount", "sh", "-e"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Tree] = [{}]
    for line in done.stdout.splitlines():
        path, content, data = line.partition("=")
        if line == ".":
            found.append({})
        else:
            found[-1][path] = data.encode() if content else None
    return found[:-1]
