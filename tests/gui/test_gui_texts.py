"""Every text has its Chinese, with the same values in it, and the catalogue holds nothing else."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core import translations
from app.core.translations import CATALOGUES, tr, use_language
from app.gui import wording

APP = Path(translations.__file__).parents[1]


def texts_in_source() -> Iterator[tuple[Path, ast.Call]]:
    for path in sorted(APP.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tr":
                yield path, node


KEYS = {
    node.args[0].value
    for _, node in texts_in_source()
    if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
}
CATALOGUE: dict[str, str] = json.loads((CATALOGUES / "zh_CN.json").read_text("utf-8"))


def test_every_text_is_written_out_where_it_is_used() -> None:
    computed = [f"{path.name}:{node.lineno}" for path, node in texts_in_source() if not _is_text(node.args[0])]
    assert computed == []


def test_the_catalogue_is_complete_and_holds_nothing_else() -> None:
    assert {"missing": KEYS - CATALOGUE.keys(), "unused": CATALOGUE.keys() - KEYS} == {
        "missing": set(),
        "unused": set(),
    }


@pytest.mark.parametrize("key", sorted(CATALOGUE))
def test_a_translation_takes_the_same_values(key: str) -> None:
    assert sorted(re.findall(r"{\w+}", key)) == sorted(re.findall(r"{\w+}", CATALOGUE[key]))
    assert CATALOGUE[key].strip()


def test_chinese_is_chosen_by_its_names() -> None:
    for name in ("zh_CN.UTF-8", "zh-Hans-CN", "zh"):
        assert use_language(name) == "zh_CN"
        assert tr("Containers") == "容器"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 min ago"),
        (7200, "2 h ago"),
        (90_000, "1 d ago"),
        (40 * 86_400, "40 d ago"),
        (400 * 86_400, "13 months ago"),
        (800 * 86_400, "2 years ago"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    assert wording.age(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (7_800_000, "7.8 MB"), (438_000_000, "438 MB"), (2 * 10**12, "2.0 TB")],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert wording.size(size_bytes) == text


def _is_text(argument: ast.expr) -> bool:
    return isinstance(argument, ast.Constant) and isinstance(argument.value, str)
