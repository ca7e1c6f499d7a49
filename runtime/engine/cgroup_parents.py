"""Where containers' cgroups are: below the engine's own, or where `--cgroup-parent` says.

A parent that had to be made is written down before, so that it is removed with its last container, even after a crash;
one that was there already is somebody else's and stays.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re

from runtime.cgroups import mounted_roots
from runtime.engine.container import Container
from runtime.engine.settings import EngineSettings
from runtime.engine.store import Store

_ID = re.compile(r"[0-9a-f]{64}")


class CgroupParents:
    def __init__(self, settings: EngineSettings, store: Store) -> None:
        self._own = settings.cgroup_parent
        self._store = store
        self._made = store.ids("cgroup")

    def path_of(self, container: Container) -> str:
        """The container's cgroup, relative to the root of every hierarchy."""
        asked = container.options.cgroup_parent
        if not asked:
            return f"{self._own}/{container.id}"
        # A relative parent is below ours, and ".." does not lead out of it.
        parent = posixpath.normpath("/" + asked.lstrip("/")).rstrip("/")
        return f"{parent if asked.startswith('/') else self._own + parent}/{container.id}"

    def prepare(self, container: Container, is_step: bool = False) -> None:
        """Before its cgroup is made: take note of the parents that are missing; of itself too for a build's step."""
        if not container.options.cgroup_parent:
            return
        path = self.path_of(container)
        for parent in [*self._parents(path), *([path] if is_step else [])]:
            if parent not in self._made and not any(os.path.isdir(root + parent) for root in mounted_roots()):
                self._store.put("cgroup", parent, {})
                self._made.add(parent)

    def release(self, container: Container) -> None:
        """After its cgroup is gone: remove the parents that were made and are empty now."""
        if container.options.cgroup_parent:
            path = self.path_of(container)
            self._remove_empty([*self._parents(path), path])

    def steps(self) -> list[str]:
        """The cgroups of builds' steps: at the engine's start, those that a killed engine has left."""
        return [path for path in self._made if _ID.fullmatch(posixpath.basename(path))]

    def reconcile(self) -> None:
        """At the engine's start and end: remove whatever is no longer used."""
        self._remove_empty(sorted(self._made))

    def _remove_empty(self, parents: list[str]) -> None:
        for parent in reversed(parents):
            if parent not in self._made:
                continue
            for root in mounted_roots():
                with contextlib.suppress(OSError):  # another container is in it still
                    os.rmdir(root + parent)
            if not any(os.path.isdir(root + parent) for root in mounted_roots()):
                self._made.discard(parent)
                self._store.note("cgroup", parent, None)

    def _parents(self, path: str) -> list[str]:
        """Those of `path` that are not the engine's own, the outermost first."""
        found: list[str] = []
        while (path := posixpath.dirname(path)) not in ("/", self._own):
            found.insert(0, path)
        return found
