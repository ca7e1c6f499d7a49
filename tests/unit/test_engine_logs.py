"""Log files: what is written is read back, across rotations, torn records and full disks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.api.stream import frame, render_frames, render_raw
from runtime.engine.logs import Journal, LogQuery, LogWriter
from runtime.engine.logs.batches import batches
from runtime.engine.logs.reader import Lines, read_log
from runtime.engine.logs.records import encode_lines, record_end
from runtime.engine.options import LogOptions
from runtime.engine.options.logs import log_options
from runtime.errors import InvalidParameter, NotSupported

ALL = LogQuery()
ONE_FILE = LogOptions("json-file")
SMALL = LogOptions("json-file", max_size_bytes=2000, max_files=3)


def text(lines: Lines) -> bytes:
    prefixes = lines.prefixes or [b""] * len(lines.lines)
    return b"".join(prefix + line + lines.newline for prefix, line in zip(prefixes, lines.lines, strict=True))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def read(path: Path, query: LogQuery = ALL, writer: LogWriter | None = None, max_files: int = 3) -> bytes:
    return b"".join([chunk async for chunk in read_log(path, max_files, writer, query, text)])


def give(writer: LogWriter, output: bytes, stream: int = 1) -> None:
    with open(os.memfd_create("output"), "w+b", buffering=0) as file:  # noqa: PTH123
        file.write(output)
        file.seek(0)
        while writer.take(stream, file.fileno()):
            pass


def write(path: Path, chunks: list[bytes], options: LogOptions = ONE_FILE) -> None:
    async def work() -> None:
        writer = LogWriter(path, options, {}, Journal(), "id")
        for chunk in chunks:
            give(writer, chunk)
        writer.close()
        if writer._compressing:
            await writer._compressing

    run(work())


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 9))
def test_local_keeps_every_byte(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], newlines: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    chunks = [chunk + b"\n" if number % 10 < newlines else chunk for number, chunk in enumerate(chunks)]
    write(path, chunks, LogOptions("local"))
    assert run(read(path)) == b"".join(chunks)
    for line in path.read_bytes().splitlines():
        json.loads(line)


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"])), max_size=30))
def test_json_file_keeps_every_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    write(path, [(text + "\n").encode() for text in texts])
    assert run(read(path)).decode() == "".join(text + "\n" for text in texts)


@pytest.mark.parametrize("lines", [[b"same"] * 500, [b"a\\"] * 500, [b"", b""] * 9, [b"one", b"two", b"three"] * 99])
def test_lines_written_together_and_alone(tmp_path: Path, lines: list[bytes]) -> None:
    output = [line + b"\n" for line in lines]
    write(tmp_path / "log", [b"".join(output), *output])
    assert run(read(tmp_path / "log")) == b"".join(output) * 2
    for tail in (1, len(output) + 1):
        assert run(read(tmp_path / "log", LogQuery(tail=tail))) == b"".join((output * 2)[-tail:])


@pytest.mark.parametrize("options", [ONE_FILE, LogOptions("local")], ids=["json-file", "local"])
def test_lines_with_escapes(tmp_path: Path, options: LogOptions) -> None:
    common = [b'say "\\" and \\n\\\\', b"\x1b[1mbold\x1b[0m\t\r", b"\x01\x1f\\u0041", b"plain"]
    rare = [*common, b"nul \0 here", "\u2028 \U0001f600".encode(), b"\\"]
    for name, lines in (("common", common), ("rare", rare)):
        output = b"".join(line + b"\n" for line in lines * 3)
        write(tmp_path / name, [output], options)
        assert run(read(tmp_path / name)) == output


def time_ns(text: str) -> int:
    moment = datetime.fromisoformat(text[:19] + "+00:00")
    return int(moment.timestamp()) * 1_000_000_000 + int(text[20:-1])


def test_from_and_until_any_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also across the blocks that are passed over without reading them."""
    monkeypatch.setattr("runtime.engine.logs.reader.BLOCK_BYTES", 1000)
    lines = [b"%d " % number + b"x" * (number % 7 * 50) + b"\n" for number in range(60)]
    write(tmp_path / "log", lines)
    at_ns = [time_ns(json.loads(line)["time"]) for line in (tmp_path / "log").read_text().splitlines()]
    for number in range(60):
        assert run(read(tmp_path / "log", LogQuery(since_ns=at_ns[number]))) == b"".join(lines[number:])
        assert run(read(tmp_path / "log", LogQuery(until_ns=at_ns[number]))) == b"".join(lines[: number + 1])
    assert run(read(tmp_path / "log", LogQuery(since_ns=at_ns[-1] + 1))) == b""
    assert run(read(tmp_path / "log", LogQuery(since_ns=1 << 70))) == b""
    assert run(read(tmp_path / "log", LogQuery(until_ns=1 << 70))) == b"".join(lines)
    assert run(read(tmp_path / "log", LogQuery(since_ns=at_ns[30], tail=40))) == b"".join(lines[30:])


def test_records_of_others(tmp_path: Path) -> None:
    """Of both streams in turn, with attributes, with a time that is written shorter, and what is no record."""
    rows = [
        b'{"log":"one\\n","stream":"stdout","time":"2026-01-02T03:04:05.100000000Z"}',
        b'{"log":"two\\n","stream":"stderr","time":"2026-01-02T03:04:05.200000000Z"}',
        b'{"log":"three\\n","stream":"stdout","attrs":{"a":"\\n","stream":"b"},"time":"2026-01-02T03:04:06.1Z"}',
        b'{"log":"cut sh',
        b"",
        b'{"log":"fo","stream":"stdout","time":"2026-01-02T03:04:07.000000000Z"}',
        b'{"log":"ur\\n","stream":"stdout","time":"2026-01-02T03:04:07.000000001Z"}',
    ]
    for begin in range(4):
        (tmp_path / "log").write_bytes(b"".join(row + b"\n" for row in rows[begin:]))
        whole = b"".join([b"one\n", b"two\n", b"three\n", b"four\n"][begin:])
        assert run(read(tmp_path / "log")) == whole
    assert run(read(tmp_path / "log", LogQuery(timestamps=True))) == b"2026-01-02T03:04:07.000000000Z four\n"


def test_streams_in_turn_take_no_longer_the_more_there_are() -> None:
    """A block of a mebibyte once took a second: the time was quadratic."""

    def taken_s(count: int) -> float:
        ends = [record_end(1 + number % 2, b"", number) for number in range(count)]
        block = b"".join(encode_lines(b"x\n", end, False) for end in ends)
        started = time.process_time()
        assert len(list(batches(block))) == count
        return time.process_time() - started

    assert min(taken_s(8000) for _ in range(3)) < 20 * min(taken_s(1000) for _ in range(3))


def test_frames() -> None:
    lines = [b"a", b"bcd", b"", b"e" * 92]
    frames = b"".join(frame(2, line + b"\n") for line in lines)
    assert render_frames(Lines(2, [], lines, b"\n")) == frames
    assert render_frames(Lines(1, [b"now "], [b"a"], b"\n")) == frame(1, b"now a\n")
    prefixes = [b"", b"12 ", b"3 ", b"45 "]
    frames = b"".join(frame(1, prefix + line) for prefix, line in zip(prefixes, lines, strict=True))
    assert render_frames(Lines(1, prefixes, lines, b"")) == frames
    assert render_raw(Lines(1, prefixes, [b"x"] * 4, b"\n")) == b"x\n12 x\n3 x\n45 x\n"


def test_what_is_not_utf8_is_shown_as_docker_does(tmp_path: Path) -> None:
    write(tmp_path / "log", [b"a\xffb\n"])
    assert json.loads((tmp_path / "log").read_text())["log"] == "a\ufffdb\n"


def test_long_lines_are_pieces_of_one_line(tmp_path: Path) -> None:
    line = b"short\n" + "ä".encode() * 30_000 + b"\nshort\n"
    write(tmp_path / "log", [line])
    assert run(read(tmp_path / "log")) == line
    assert max(len(row) for row in (tmp_path / "log").read_bytes().splitlines()) < 17_000
    shown = run(read(tmp_path / "log", LogQuery(timestamps=True)))
    assert shown.count(b"Z ") == 3
    assert run(read(tmp_path / "log", LogQuery(tail=2))) == line[6:]


def test_text_that_looks_like_a_record(tmp_path: Path) -> None:
    lines = [b'{"log":"x\\n","stream":"stdout","time":"2026"}\n', b'","stream":"stdout"\n', b"back\\\n", b"back\\n\n"]
    write(tmp_path / "log", [b"".join(lines)])
    assert run(read(tmp_path / "log")) == b"".join(lines)
    write(tmp_path / "piece", [b"no newline: \\n"])
    assert run(read(tmp_path / "piece")) == b"no newline: \\n"


@pytest.mark.parametrize("options", [SMALL, LogOptions("local", 2000, 3, compress=True)], ids=["plain", "gzip"])
def test_rotation(tmp_path: Path, options: LogOptions) -> None:
    path = tmp_path / "log"
    lines = [b"line %d\n" % number for number in range(300)]
    write(path, lines, options)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == (["log", "log.1.gz", "log.2.gz"] if options.compress else ["log", "log.1", "log.2"])
    kept = run(read(path)).splitlines(keepends=True)
    assert kept == lines[-len(kept) :]
    assert 40 < len(kept) < 300
    for tail in (0, 1, 25, 40, 300):
        assert run(read(path, LogQuery(tail=tail))).splitlines(keepends=True) == kept[len(kept) - tail :][-tail:] * (
            tail > 0
        )
    assert all(2000 <= file.stat().st_size < 2200 for file in tmp_path.glob("log.[12]"))


def test_a_single_file_begins_again(tmp_path: Path) -> None:
    write(tmp_path / "log", [b"x" * 99 + b"\n"] * 50, LogOptions("json-file", 2000, 1))
    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    assert (tmp_path / "log").stat().st_size < 2300


def test_follow_across_rotations(tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def work() -> bytes:
        writer = LogWriter(path, SMALL, {}, Journal(), "id")
        give(writer, b"first\n")
        following = asyncio.ensure_future(read(path, LogQuery(follow=True), writer))
        for number in range(200):
            give(writer, b"line %d\n" % number)
            await asyncio.sleep(0)
        writer.close()
        return await following

    assert run(work()) == b"first\n" + b"".join(b"line %d\n" % number for number in range(200))


def test_follow_ends_at_the_wanted_time(tmp_path: Path) -> None:
    async def work() -> bytes:
        writer = LogWriter(tmp_path / "log", SMALL, {}, Journal(), "id")
        give(writer, b"now\n")
        until = LogQuery(follow=True, until_ns=time.time_ns() + 50_000_000)
        try:
            return await read(tmp_path / "log", until, writer)
        finally:
            writer.close()

    assert run(work()) == b"now\n"


def test_an_unfinished_line_is_soon_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engine.logs.writer.IDLE_S", 0.01)

    async def work() -> None:
        writer = LogWriter(tmp_path / "log", SMALL, {}, Journal(), "id")
        following = read_log(tmp_path / "log", 1, writer, LogQuery(follow=True, timestamps=True), text)
        give(writer, "prompt€".encode()[:-1])
        assert (await anext(following)).endswith(b"Z prompt")
        give(writer, "€".encode()[-1:] + b" answered\n")
        assert await anext(following) == "€ answered\n".encode()
        give(writer, b"next\n")
        assert (await anext(following)).endswith(b"Z next\n")
        writer.close()
        await following.aclose()  # type: ignore[attr-defined]

    run(work())
    assert run(read(tmp_path / "log", LogQuery(tail=2))) == "prompt€ answered\nnext\n".encode()


def test_a_torn_record_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, [b"one\n", b"two\n"])
    os.truncate(path, path.stat().st_size - 20)
    write(path, [b"three\n"])
    assert run(read(path)) == b"one\nthree\n"
    assert run(read(path, LogQuery(tail=1))) == b"three\n"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    room = [130]
    real = os.write

    def limited(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        size = min(room[0], len(data))
        room[0] -= size
        return real(fd, data[:size])

    async def work() -> None:
        writer = LogWriter(tmp_path / "log", SMALL, {}, Journal(), "id")
        monkeypatch.setattr(os, "write", limited)
        for number in range(5):
            give(writer, b"line %d\n" % number)
        room[0] = 10_000
        give(writer, b"room again\n")
        writer.close()

    run(work())
    assert run(read(tmp_path / "log")) == b"line 0\nroom again\n"
    refused, again = [record.message for record in caplog.records]
    assert refused.endswith("cannot be written, output is lost until it can: No space left on device")
    assert re.search(r"is written again; 2\d\d bytes of it were lost", again)


def test_streams_times_and_details(tmp_path: Path) -> None:
    async def work() -> None:
        writer = LogWriter(tmp_path / "log", SMALL, {"b": "2", "a": "x y"}, Journal(), "id")
        give(writer, b"out\n")
        give(writer, b"err\n", 2)
        writer.close()

    run(work())
    assert run(read(tmp_path / "log", LogQuery(stdout=False))) == b"err\n"
    assert run(read(tmp_path / "log", LogQuery(details=True))) == b"a=x+y,b=2 out\na=x+y,b=2 err\n"
    first_ns, last_ns = (time_ns(json.loads(line)["time"]) for line in (tmp_path / "log").read_text().splitlines())
    assert first_ns < last_ns
    assert run(read(tmp_path / "log", LogQuery(since_ns=last_ns))) == b"err\n"
    assert run(read(tmp_path / "log", LogQuery(until_ns=first_ns))) == b"out\n"


REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
    ("json-file", {"max-size": "ten"}, "invalid size: 'ten'"),
    ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
    ("json-file", {"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
    ("json-file", {"compress": "true"}, "compress cannot be true when max-file is less than 2 or max-size is not set"),
    ("json-file", {"colour": "red"}, "unknown log opt 'colour' for json-file log driver"),
    ("local", {"labels": "a"}, "unknown log opt 'labels' for log driver local"),
    ("json-file", {"mode": "fast"}, "logger: logging mode not supported: fast"),
    (
        "json-file",
        {"max-buffer-size": "1m"},
        "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
    ),
]


@pytest.mark.parametrize("driver, options, sentence", REFUSED, ids=[str(case[1]) for case in REFUSED])
def test_options_refused(driver: str, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        log_options({"LogConfig": {"Type": driver, "Config": options}}, {}, [])
    assert str(refused.value) == sentence


def test_options() -> None:
    with pytest.raises(NotSupported, match=r"--log-driver syslog is not supported.*json-file, local or none"):
        log_options({"LogConfig": {"Type": "syslog"}}, {}, [])
    given = {"max-size": "10m", "max-file": "3", "compress": "true", "mode": "non-blocking", "max-buffer-size": "4m"}
    parsed = log_options({"LogConfig": {"Type": "", "Config": given}}, {}, [])
    assert (parsed.driver, parsed.max_size_bytes, parsed.max_files, parsed.compress) == (
        "json-file",
        10_000_000,
        3,
        True,
    )
    local = log_options({"LogConfig": {"Type": "local"}}, {}, [])
    assert (local.max_size_bytes, local.max_files, local.compress) == (20 << 20, 5, True)
    chosen = {"labels": "a", "labels-regex": "^b", "env": "HOME", "tag": "{{.Name}}"}
    parsed = log_options({"LogConfig": {"Config": chosen}}, {"a": "1", "bc": "2", "d": "3"}, ["HOME=/", "X=y"])
    assert parsed.attributes == {"a": "1", "bc": "2", "HOME": "/"}


class Killed(BaseException):
    """The engine is no more."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise Killed before or after the system call or journal entry that is number `step` // 2."""
    left = [step]

    def mortal(call: Any) -> Any:
        def called(*args: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            result = call(*args)
            if not left[0]:
                raise Killed
            left[0] -= 1
            return result

        return called

    for owner, name in ((os, "write"), (os, "pwrite"), (os, "readv"), (Journal, "_describe"), (Journal, "end")):
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))


KEEPING_ALL = LogOptions("json-file", max_size_bytes=9000, max_files=100)
SAID = [b"one\ntwo\nthr", b"ee\n", b"four", b" and five\nsix\n" + b"long " * 5000 + b"\nseven\n", b"no end"]


@pytest.mark.parametrize("options", [ONE_FILE, KEEPING_ALL], ids=["one file", "rotated"])
def test_a_kill_anywhere_neither_loses_nor_repeats(tmp_path: Path, options: LogOptions) -> None:
    step = 0
    while kill_and_go_on(tmp_path / str(step), step, options):
        step += 1
    assert step > 40


def kill_and_go_on(place: Path, step: int, options: LogOptions) -> bool:
    """Take all that is SAID, with a kill at `step` and a writer that takes over; False when the end came first."""
    place.mkdir()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    chunks = iter(SAID)

    async def take_all() -> None:
        journal = Journal(place / "journal")
        writer = LogWriter(place / "log", options, {}, journal, "id")
        if journal.pending:
            writer.restore(journal.pending)
        journal.forget()
        with contextlib.suppress(BlockingIOError):  # what was in the pipe when the other was killed
            writer.take(1, reading)
        for chunk in chunks:
            os.writev(writing, [chunk])
            writer.take(1, reading)
        writer.close()

    killed = False
    try:
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, step)
            try:
                run(take_all())
            except Killed:
                killed = True
        if killed:
            run(take_all())
    finally:
        os.close(reading)
        os.close(writing)
    assert run(read(place / "log", max_files=100)) == b"".join(SAID), f"step {step}"
    assert not list(place.glob("*.unfinished"))
    return killed
