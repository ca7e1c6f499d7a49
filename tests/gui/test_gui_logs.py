"""Following a log: nothing lost in order, bounded, searchable, and never in the way of the window."""

import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from app.core.background import Background
from app.engine.models import Output
from app.gui import log_feed, logs_view
from app.gui.log_feed import LineQueue, LineStream, LogFeed, LogLine
from app.gui.logs_view import LogsView
from app.gui.qt import QApplication, QTextCursor, QTimer
from app.gui.theme import Theme
from tests.fakes.engine_server import FakeEngine

WAIT_MS = 20_000
FLOOD_MS = 2_000


class Pieces:
    """An output stream made of given pieces; `close` ends it."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Output]:
        return (Output("stdout", piece) for piece in self._pieces)

    def close(self) -> None:
        self.closed.set()


class Flood(Pieces):
    """Writes as fast as it can until closed."""

    written = 0

    def __iter__(self) -> Iterator[Output]:
        while not self.closed.is_set():
            lines = b"".join(
                b"line %d of the flood, with \x1b[32mcolour\x1b[0m\n" % (self.written + n) for n in range(500)
            )
            self.written += 500
            yield Output("stdout", lines)


@pytest.fixture
def follow(qtbot, theme: Theme, link) -> Iterator:
    """Show a view following a stream."""
    view = LogsView(theme)
    qtbot.addWidget(view)
    view.resize(1000, 600)
    view.show()
    background = Background(link._deliver, workers=1)

    def start(stream: Pieces) -> LogsView:
        view.show_feed("web", LogFeed(background, lambda: stream))
        return view

    yield start
    view._close_feed()
    background.close()


def test_lines_split_anywhere_come_out_whole(follow, qtbot) -> None:
    view = follow(Pieces(b"one\ntw", b"o\r\n\x1b[3", b"1mthree\x1b[0m\nunfinished"))
    qtbot.waitUntil(lambda: view.text.toPlainText() == "one\ntwo\nthree\nunfinished", timeout=WAIT_MS)
    assert view._summary.text() == "End of the log"


def test_stdout_and_stderr_do_not_mix_inside_a_line() -> None:
    class Both(Pieces):
        def __iter__(self) -> Iterator[Output]:
            yield Output("stdout", b"to out ")
            yield Output("stderr", b"to err\n")
            yield Output("stdout", b"goes on\n")

    queue = LineQueue()
    list(LineStream(Both(), queue))
    assert [line.text for line in queue.take(9)[0]] == ["to err", "to out goes on"]


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("2026-01-02T03:04:05.000000006Z hello", LogLine("2026-01-02T03:04:05.000000006", "hello")),
        ("2026-01-02T03:04:05+02:00 ", LogLine("2026-01-02T03:04:05", "")),
        ("2026 was a year", LogLine("", "2026 was a year")),
    ],
)
def test_stamps(line: str, parsed: LogLine) -> None:
    assert LogLine.parse(line) == parsed


def test_a_full_queue_drops_the_oldest_and_counts_them() -> None:
    queue = LineQueue()
    assert queue.put([LogLine("", str(n)) for n in range(log_feed.QUEUE_LINES)])
    assert not queue.put([LogLine("", "new")] * 3)
    lines, more, dropped = queue.take(1)
    assert (lines[0].text, more, dropped) == ("3", True, 3)
    assert queue.take(1)[2] == 0


def test_a_flood_is_bounded_and_the_window_stays_alive(follow, qtbot) -> None:
    ticks: list[float] = []  # in seconds of this thread, which others that are busy do not make longer
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(time.thread_time()))
    flood = Flood()
    view = follow(flood)
    timer.start(10)
    began = time.thread_time()
    qtbot.wait(FLOOD_MS)
    took_s = time.thread_time() - began
    timer.stop()
    view._close_feed()
    assert flood.written > logs_view.MAX_LINES
    assert len(ticks) / took_s >= 20
    assert max(later - earlier for earlier, later in pairwise(ticks)) < 0.5
    assert view.text.document().blockCount() <= logs_view.MAX_LINES
    assert len(view._lines) <= logs_view.MAX_LINES
    assert flood.closed.is_set()


def test_search_counts_marks_and_walks(follow, qtbot) -> None:
    view = follow(Pieces(b"Apple pie\npear\nan apple, one more APPLE\n"))
    qtbot.waitUntil(lambda: "pear" in view.text.toPlainText(), timeout=WAIT_MS)
    view._search.setText("apple")
    assert view._matches.text() == "3 matches"
    assert len(view.text.extraSelections()) == 3
    assert view.text.textCursor().selectedText() == "APPLE"
    view._previous.click()
    assert view.text.textCursor().selectedText() == "apple"
    view._previous.click()
    view._previous.click()  # over the beginning to the end
    assert view.text.textCursor().selectedText() == "APPLE"
    view._search.setText("nothing")
    assert not view._next.isEnabled()
    assert view.text.extraSelections() == []


def test_stamps_are_shown_when_asked_for(follow, qtbot) -> None:
    view = follow(Pieces(b"2026-01-02T03:04:05.678901234Z hello\n"))
    qtbot.waitUntil(lambda: view.text.toPlainText() == "hello", timeout=WAIT_MS)
    view._timestamps.setChecked(True)
    assert view.text.toPlainText() == "2026-01-02 03:04:05.678  hello"
    view._timestamps.setChecked(False)
    assert view.text.toPlainText() == "hello"


def test_copy_and_clear(follow, qtbot) -> None:
    view = follow(Pieces(b"one\ntwo\n"))
    qtbot.waitUntil(lambda: view.text.toPlainText() == "one\ntwo", timeout=WAIT_MS)
    view.copy()
    assert QApplication.clipboard().text() == "one\ntwo"
    view.text.moveCursor(QTextCursor.MoveOperation.Start)
    assert view.text.find("two")
    view.copy()
    assert QApplication.clipboard().text() == "two"
    view.clear()
    assert view.text.toPlainText() == ""


def test_a_live_container_is_followed_until_left(qtbot, engine: FakeEngine, window) -> None:
    made = engine.add_container("web")
    engine.write(made.id, b"before\n")
    qtbot.waitUntil(lambda: window.containers.proxy.rowCount() == 1, timeout=WAIT_MS)
    window.show_logs(made.id)
    qtbot.waitUntil(lambda: window.logs.text.toPlainText() == "before", timeout=WAIT_MS)
    engine.write(made.id, b"after\n", 2)
    qtbot.waitUntil(lambda: window.logs.text.toPlainText() == "before\nafter", timeout=WAIT_MS)
    window.show_page(1)
    assert window.logs._feed is None


def test_a_log_which_breaks_off_says_so(qtbot, engine: FakeEngine, window) -> None:
    made = engine.add_container("web")
    qtbot.waitUntil(lambda: window.containers.proxy.rowCount() == 1, timeout=WAIT_MS)
    del engine.containers[made.id]
    window.show_logs(made.id)
    qtbot.waitUntil(lambda: "No such container" in window.logs.banner.text, timeout=WAIT_MS)
    made.process.end(0)
