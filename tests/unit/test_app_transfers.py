"""What `wherry pull` shows while it goes on."""

from __future__ import annotations

import io
import sys

import pytest

from app.cli.transfers import Transfer, show_transfer
from app.engine.models import Progress

MB = 1_000_000


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_layers_rate_and_time_left() -> None:
    clock = Clock()
    transfer = Transfer("Pulling app", clock)
    assert not transfer.take(Progress("Pulling from team/app", "latest"))
    for id in ("aaa", "bbb"):
        assert transfer.take(Progress("Pulling fs layer", id))
    assert transfer.take(Progress("Already exists", "ccc"))
    assert transfer.lines(100, 40)[-1] == "Pulling app"
    clock.now_s = 2
    transfer.take(Progress("Downloading", "aaa", 20 * MB, 100 * MB))
    first, second, third, total = transfer.lines(100, 40)
    assert first == f"{'aaa':12}  {'█' * 6}{'░' * 24} 20MB of 100MB"
    assert (second, third) == (f"{'bbb':12}  Pulling fs layer", f"{'ccc':12}  Already exists")
    assert total == "Pulling app  20MB of 100MB, 10MB/s"  # of the second layer nobody knows the size yet
    transfer.take(Progress("Downloading", "bbb", 10 * MB, 100 * MB))
    clock.now_s = 3
    assert transfer.lines(100, 40)[-1] == "Pulling app  30MB of 200MB, 10MB/s, 17 s left"
    transfer.take(Progress("Download complete", "aaa"))
    transfer.take(Progress("Download complete", "bbb"))
    assert transfer.lines(100, 40)[-1].startswith("Pulling app  200MB of 200MB, ")


def test_a_small_terminal_shows_what_moves() -> None:
    transfer = Transfer("Pulling app", Clock())
    for number in range(20):
        transfer.take(Progress("Already exists", f"old{number}"))
    transfer.take(Progress("Downloading", "moving", 1, 2))
    lines = transfer.lines(30, 8)
    assert len(lines) == 7 and lines[0].startswith("moving") and all(len(line) <= 30 for line in lines)


def test_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [
        Progress("Pulling from team/app", "latest"),
        Progress("Pulling fs layer", "aaa"),
        *(Progress("Downloading", "aaa", done, 9) for done in (3, 9)),
        Progress("Pull complete", "aaa"),
        Progress("Status: Downloaded newer image for app:latest"),
    ]
    show_transfer("Pulling app", messages, quiet=False)
    assert capsys.readouterr().out.splitlines() == [
        "latest: Pulling from team/app",
        "aaa: Pulling fs layer",
        "aaa: Pull complete",
        "Status: Downloaded newer image for app:latest",
    ]
    show_transfer("Pulling app", messages, quiet=True)
    assert capsys.readouterr() == ("", "")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    show_transfer("Pulling app", messages, quiet=False)
    assert terminal.getvalue().endswith("\x1b[J") and "aaa" in terminal.getvalue()
    assert "aaa" not in capsys.readouterr().out
