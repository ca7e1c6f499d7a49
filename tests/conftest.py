"""Markers follow folders: a test in tests/kernel is marked `kernel`, and so on."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        if not tier.endswith(".py"):
            item.add_marker(getattr(pytest.mark, tier))
