"""Texts in the user's language, without Qt: the English text is the key, a JSON catalogue holds the others.

`tr("Remove {name}?", name="web")` looks the English sentence up in `locale/<language>.json` and fills the
values in; a text that has no translation stays English. The language comes from the system's settings; a
program calls `use_language()` once if the user has chosen another.
"""

import json
import locale
import os
from collections.abc import Mapping
from pathlib import Path

CATALOGUES = Path(__file__).with_name("locale")
ENGLISH = "en"

_catalogue: Mapping[str, str] = {}
_language = ENGLISH


def tr(text: str, /, **values: object) -> str:
    """`text` in the current language, with `{name}` replaced by the value called `name`."""
    translated = _catalogue.get(text, text)
    return translated.format(**values) if values else translated


def use_language(wanted: str) -> str:
    """Switch to `wanted` ("zh_CN", "zh-Hans-CN", "en_GB.UTF-8"); the catalogue chosen, "en" for none."""
    global _catalogue, _language
    chosen = _best(wanted)
    _catalogue = {} if chosen == ENGLISH else json.loads((CATALOGUES / f"{chosen}.json").read_text("utf-8"))
    _language = chosen
    return chosen


def language() -> str:
    """The current language: the name of its catalogue, or "en"."""
    return _language


def system_language() -> str:
    """What the system says the user reads: the first of the usual variables, then the C library's locale."""
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(variable):
            return value
    return locale.getlocale()[0] or ENGLISH


def available() -> list[str]:
    """Languages there are texts for."""
    return [ENGLISH, *sorted(path.stem for path in CATALOGUES.glob("*.json"))]


def _best(wanted: str) -> str:
    """The catalogue for exactly this language and territory, else one for the language."""
    parts = wanted.partition(".")[0].partition("@")[0].replace("-", "_").split("_")
    names = available()
    exact = f"{parts[0]}_{parts[-1]}"
    if exact in names:
        return exact
    same = [name for name in names if name.split("_")[0] == parts[0]]
    return same[0] if same else ENGLISH
