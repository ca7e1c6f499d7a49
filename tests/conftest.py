"""Markers follow folders: a test in tests/kernel is marked `kernel`, and so on.

With several workers (`pytest -n 2`) each has a network of its own, as it has engines of its own; the modules of
tests/vm stay together, for they share a machine.
"""

import os
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).parent
hypothesis.settings.register_profile("any machine", deadline=None)  # some are ten times slower
hypothesis.settings.load_profile("any machine")

BEGUN_FIRST = ("vm/", "engine/test_kills.py", "engine/test_cycles.py")  # the longest, that no worker ends with one


class ByModule(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "tests/vm" if module.startswith("tests/vm/") else module


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine-host",
        metavar="unix://...",
        help="run tests/engine and tests/conformance on this engine, such as a machine's, and remove its containers",
    )


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return ByModule(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") and os.geteuid() == 0:
        from runtime.linux import namespaces, netlink

        namespaces.unshare(namespaces.CLONE_NEWNET)
        with netlink.NetlinkSocket() as route:
            route.change(netlink.set_link("lo", up=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        if not tier.endswith(".py"):
            item.add_marker(getattr(pytest.mark, tier))
    items.sort(key=lambda item: not item.path.relative_to(HERE).as_posix().startswith(BEGUN_FIRST))
