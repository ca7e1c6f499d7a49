"""The engine tier's engine, for clients that nobody here wrote."""

from tests.engine.conftest import _no_containers_left, busybox_archive, engine, new_engine, nothing_built_stays

__all__ = ["_no_containers_left", "busybox_archive", "engine", "new_engine", "nothing_built_stays"]
