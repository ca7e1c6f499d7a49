"""Settings, paths, translations, the log file, the single instance and the background, each alone."""

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.core import translations
from app.core.background import Background
from app.core.errors import UserError
from app.core.log_file import log_to
from app.core.paths import user_paths
from app.core.settings import Settings
from app.core.single_instance import SingleInstance
from app.core.translations import tr, use_language


def test_settings_come_back_and_keep_what_they_do_not_know(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "settings.json"
    settings = Settings.load(path)
    assert settings.get("mode", "auto") == "auto"
    settings.set("mode", "dark")
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "settings": {**document["settings"], "of_the_future": [1]}}))
    Settings.load(path).set("mode", "light")
    again = Settings.load(path)
    assert (again.get("mode", "auto"), again.get("of_the_future", [])) == ("light", [1])
    assert again.get("mode", 7) == 7, "a value of another type is not handed out"
    assert [file.name for file in path.parent.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"settings": 1}', '{"version": 99, "settings": {}}'])
def test_settings_that_make_no_sense_are_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(UserError, match="settings"):
        Settings.load(path)
    assert path.read_text() == text


def test_settings_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings.load(tmp_path / "settings.json")
    settings._path = tmp_path / "file" / "settings.json"
    with pytest.raises(UserError, match="cannot be written"):
        settings.set("a", 1)


def test_paths_follow_each_systems_convention() -> None:
    home = Path("/home/me")
    linux = user_paths("linux", {"XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "relative"}, home)
    assert (linux.settings_file, linux.data) == (Path("/c/wherry/settings.json"), home / ".local/share/wherry")
    assert linux.logs == home / ".local/state/wherry"
    windows = user_paths("win32", {"LOCALAPPDATA": "/local"}, home)
    assert windows.config == Path("/local/wherry")
    mac = user_paths("darwin", {}, home)
    assert mac.data == home / "Library/Application Support/wherry"


@pytest.fixture
def chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "zh_CN.json").write_text(json.dumps({"Remove {name}?": "删除 {name}"}))
    monkeypatch.setattr(translations, "CATALOGUES", tmp_path)
    yield
    use_language("en")


@pytest.mark.parametrize("wanted", ["zh_CN", "zh_CN.UTF-8", "zh-Hans-CN", "zh_TW", "zh"])
@pytest.mark.usefixtures("chinese")
def test_texts_in_another_language(wanted: str) -> None:
    assert use_language(wanted) == "zh_CN"
    assert tr("Remove {name}?", name="web") == "删除 web"
    assert tr("Not translated {text}", text="x") == "Not translated x"


@pytest.mark.parametrize("wanted", ["en_GB.UTF-8", "C", "POSIX", "", "fr_FR"])
@pytest.mark.usefixtures("chinese")
def test_english_when_nothing_fits(wanted: str) -> None:
    assert use_language(wanted) == "en"
    assert tr("Remove {name}?", name="web") == "Remove web?"


def test_every_translation_keeps_the_places_for_values() -> None:
    from string import Formatter

    for path in translations.CATALOGUES.glob("*.json"):
        for english, translated in json.loads(path.read_text("utf-8")).items():
            names = [{field for _, field, _, _ in Formatter().parse(text) if field} for text in (english, translated)]
            assert names[0] == names[1], f"{path.name}: {english}"


def test_language_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "")
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert translations.system_language() == "zh_CN.UTF-8"


def test_log_file_is_written(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    path = log_to(tmp_path / "logs", "wherry")
    try:
        logging.getLogger("test").info("hello")
    finally:
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
    assert path.read_text().endswith("INFO test: hello\n")


def test_second_start_calls_the_first(tmp_path: Path) -> None:
    called = threading.Event()
    first = SingleInstance(tmp_path)
    assert first.acquire()
    first.on_second_start(called.set)
    try:
        assert not SingleInstance(tmp_path).acquire()
        assert called.wait(5)
    finally:
        first.close()
    after = SingleInstance(tmp_path)
    assert after.acquire()
    after.close()


@pytest.mark.parametrize("left", ["", "nonsense", "1 token", "99999 token"])
def test_what_a_crash_left_behind_does_not_matter(tmp_path: Path, left: str) -> None:
    (tmp_path / "instance").write_text(left)
    instance = SingleInstance(tmp_path)
    assert instance.acquire()
    instance.close()


class Stream:
    """Numbers until closed; then waits no more."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[int]:
        yield from iter(self.items.get, None)

    def close(self) -> None:
        self.items.put(None)


@pytest.fixture
def main_thread() -> Iterator[tuple[Background, Callable[[], None]]]:
    """A background, and a function that runs the next delivered callback here."""
    delivered: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    background = Background(delivered.put, workers=2)
    yield background, lambda: delivered.get(timeout=5)()
    background.close()


def test_results_and_errors_come_back(main_thread: tuple[Background, Callable[[], None]]) -> None:
    background, run_next = main_thread
    results: list[object] = []
    background.submit(lambda: threading.current_thread() is threading.main_thread(), results.append)
    run_next()
    background.submit(lambda: 1 / 0, results.append, lambda error: results.append(type(error)))
    run_next()
    assert results == [False, ZeroDivisionError]


def test_a_stream_is_followed_until_cancelled(main_thread: tuple[Background, Callable[[], None]]) -> None:
    background, run_next = main_thread
    stream, items = Stream(), []
    job = background.follow(lambda: stream, items.append, on_end=lambda: items.append("end"))
    stream.items.put(1)
    stream.items.put(2)
    run_next()
    job.cancel()
    run_next()
    assert items == [1]


def test_the_end_of_a_stream_is_told(main_thread: tuple[Background, Callable[[], None]]) -> None:
    background, run_next = main_thread
    stream, items = Stream(), []
    background.follow(lambda: stream, items.append, on_end=lambda: items.append("end"))
    stream.close()
    run_next()
    assert items == ["end"]


def test_closing_silences_everything(main_thread: tuple[Background, Callable[[], None]]) -> None:
    background, run_next = main_thread
    heard: list[object] = []
    background.submit(lambda: 1, heard.append)
    background.close()
    run_next()
    assert heard == []
