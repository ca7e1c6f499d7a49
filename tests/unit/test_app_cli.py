"""The commands against the fake engine, in this process: what they print, what they ask for, how they end."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.cli.commands.gui import DISPLAY_VARIABLES
from app.cli.commands.logs import line_count, moment
from app.cli.commands.ps import ports_text
from app.cli.exit_codes import of_refused_start
from app.cli.main import COMMANDS, main
from app.cli.output import human_duration, human_size
from app.cli.terminal import DetachKeys
from app.engine.errors import EngineError
from app.engine.models import PortMapping
from tests.fakes.engine_server import FakeEngine

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "s") as fake:
        fake.add_image("alpine:latest")
        yield fake


@pytest.fixture
def wherry(engine: FakeEngine, capfdbinary: pytest.CaptureFixture[bytes]) -> "Wherry":
    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(["--host", engine.host, *arguments])
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            code = stop.code
        output, errors = capfdbinary.readouterr()
        return code, output.decode(), errors.decode()

    return run


Wherry = Callable[..., tuple[int, str, str]]


def test_help_names_every_command_and_each_has_help(wherry: Wherry) -> None:
    _, listing, _ = wherry("--help")
    for name in COMMANDS:
        assert f"  {name} " in listing
        code, text, _ = wherry(name, "--help")
        assert code == 0 and text.startswith(f"usage: wherry {name}")


def test_what_is_not_a_command(wherry: Wherry) -> None:
    assert wherry("fly")[0] == 1
    code, _, errors = wherry("run", "--fly", "alpine")
    assert code == 125 and "wherry run --help" in errors
    assert wherry("ps", "stray")[0] == 125


def test_ps_is_a_table(engine: FakeEngine, wherry: Wherry) -> None:
    web = engine.add_container("web")
    engine.add_container("done", "alpine:latest", "echo", "a very long command line", running=True)
    code, table, _ = wherry("ps")
    heading, row = table.splitlines()
    assert code == 0
    assert [heading.index(name) for name in ("IMAGE", "COMMAND")] == [row.index("alpine"), row.index('"sleep"')]
    assert row.startswith(web.id[:12]) and row.endswith("web")
    _, everything, _ = wherry("ps", "-a", "--no-trunc")
    assert "a very long command line" in everything and web.id in everything
    assert '"echo a very long co…"' in wherry("ps", "-a")[1]
    assert wherry("ps", "-q")[1] == f"{web.id[:12]}\n"


def test_lists_are_json_for_programs(engine: FakeEngine, wherry: Wherry) -> None:
    engine.add_container("web")
    [container] = json.loads(wherry("ps", "--format", "json")[1])
    assert (container["name"], container["state"], container["ports"]) == ("web", "running", [])
    [image] = json.loads(wherry("images", "--format", "json")[1])
    assert image["tags"] == ["alpine:latest"]
    assert json.loads(wherry("status", "--format", "json")[1])["state"] == "running"
    assert json.loads(wherry("version", "--format", "json")[1])["engine"]["api_version"] == "1.47"


def test_images_has_a_row_for_each_tag(engine: FakeEngine, wherry: Wherry) -> None:
    engine.add_image("host:5000/a:1", "b:2", size_bytes=123_456_789)
    engine.add_image()
    rows = [line.split() for line in wherry("images")[1].splitlines()[1:]]
    assert [row[:2] for row in rows] == [["alpine", "latest"], ["host:5000/a", "1"], ["b", "2"], ["<none>", "<none>"]]
    assert [row[-1] for row in rows] == ["7.8MB", "123MB", "123MB", "7.8MB"]


def test_run_in_the_foreground(engine: FakeEngine, wherry: Wherry) -> None:
    assert wherry("run", "alpine", "echo", "-n", "a") == (0, "-n a\n", "")
    assert wherry("run", "alpine", "warn", "a") == (0, "", "a\n")
    assert wherry("run", "alpine", "exit", "7") == (7, "", "")
    asked = [request.split("/")[-1] for request in engine.requests[:4]]
    assert asked == ["create", "attach", "wait", "start"], "nothing may be missed"


def test_run_in_the_background(engine: FakeEngine, wherry: Wherry) -> None:
    code, output, _ = wherry("run", "-d", "--name", "web", "alpine")
    assert (code, output.strip()) == (0, engine.find("web").id)


@pytest.mark.parametrize(("program", "code"), [("missing", 127), ("forbidden", 126)])
def test_run_of_what_cannot_be_started(engine: FakeEngine, wherry: Wherry, program: str, code: int) -> None:
    ended, _, errors = wherry("run", "--rm", "alpine", program)
    assert ended == code and errors.startswith(f'wherry: Error response from engine: exec: "{program}"')
    assert engine.containers == {}


def test_run_of_an_image_that_is_not_there(wherry: Wherry) -> None:
    code, _, errors = wherry("run", "ghost")
    assert code == 125 and "no image 'ghost'" in errors and "pulling it" in errors


def test_run_with_a_name_that_is_taken(engine: FakeEngine, wherry: Wherry) -> None:
    engine.add_container("web")
    code, _, errors = wherry("run", "--name", "web", "alpine")
    assert code == 125 and "already in use" in errors


def test_run_with_options_that_make_no_sense(engine: FakeEngine, wherry: Wherry) -> None:
    code, _, errors = wherry("run", "-p", "http", "alpine")
    assert code == 125 and "'http' is not a port" in errors
    assert engine.requests == []


def test_exec(engine: FakeEngine, wherry: Wherry) -> None:
    engine.add_container("web")
    assert wherry("exec", "-u", "me", "web", "echo", "-x", "in") == (0, "-x in\n", "")
    assert engine.bodies[-1]["User"] == "me"
    assert wherry("exec", "web", "exit", "3")[0] == 3
    assert wherry("exec", "web", "missing")[0] == 127
    code, _, errors = wherry("exec", "ghost", "echo")
    assert code == 1 and "No such container: ghost" in errors


def test_logs(engine: FakeEngine, wherry: Wherry) -> None:
    engine.add_container("talker", "alpine:latest", "echo", "one")
    engine.write("talker", b"two\n")
    assert wherry("logs", "talker")[1] == "one\ntwo\n"
    assert wherry("logs", "--tail", "1", "talker")[1] == "two\n"
    assert wherry("logs", "-f", "-t", "talker")[1].splitlines()[0].endswith("Z one")


def test_stop_start_rm_print_what_they_did(engine: FakeEngine, wherry: Wherry) -> None:
    engine.add_container("web")
    assert wherry("rm", "web")[0] == 1
    assert wherry("stop", "-t", "0", "web") == (0, "web\n", "")
    assert wherry("start", "web", "ghost")[:2] == (1, "web\n")
    assert wherry("rm", "-f", "web") == (0, "web\n", "")


def test_load(engine: FakeEngine, wherry: Wherry, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    manifest = json.dumps([{"RepoTags": ["a:1", "b:2"]}]).encode()
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(manifest)
        tar.addfile(member, io.BytesIO(manifest))
    assert wherry("load", "-i", str(archive)) == (0, "Loaded image: a:1\nLoaded image: b:2\n", "")
    assert engine.uploaded_bytes == archive.stat().st_size
    code, _, errors = wherry("load", "-i", str(tmp_path / "none"))
    assert code == 1 and "none cannot be read: No such file or directory" in errors


def test_an_engine_somebody_else_runs_is_not_stopped(wherry: Wherry) -> None:
    code, _, errors = wherry("down")
    assert code == 1 and "not started by Wherry" in errors
    assert wherry("up")[0] == 0


def test_no_engine(wherry: Wherry, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/none"
    code, _, errors = wherry("--host", nowhere, "ps")
    assert code == 1 and "wherry up" in errors
    assert wherry("--host", nowhere, "status")[0] == 1
    assert wherry("--host", nowhere, "version")[0] == 0


def test_ps_imports_nothing_slow() -> None:
    slow = "requests urllib3 paramiko PySide6 vmbackend asyncio subprocess logging tempfile"
    program = (
        "import sys; import app.cli.main, app.cli.commands.ps\n"
        "from app.services.engines import choose_backend\n"
        "choose_backend('native').host()\n"
        f"print([name for name in {slow.split()} if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        ([b"ab"], b"ab", False),
        ([b"\x10\x11"], b"", True),
        ([b"a\x10", b"\x11b"], b"a", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_detach_keys(typed: list[bytes], passed: bytes, detached: bool) -> None:
    keys = DetachKeys()
    results = [keys.feed(piece) for piece in typed]
    assert b"".join(data for data, _ in results) == passed
    assert any(found for _, found in results) == detached


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (600, "10 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (3 * 86_400, "3 days"),
        (20 * 86_400, "2 weeks"),
        (90 * 86_400, "3 months"),
        (800 * 86_400, "2 years"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_sizes() -> None:
    assert [human_size(size) for size in (0, 999, 1000, 7_830_000, 2e9, 3e12)] == [
        *("0B", "999B", "1kB", "7.83MB", "2GB", "3TB")
    ]


def test_ports() -> None:
    ports = [PortMapping(80, "tcp", "0.0.0.0", 8080), PortMapping(80, "tcp", "::", 8080), PortMapping(53, "udp")]
    assert ports_text(ports) == "0.0.0.0:8080->80/tcp, 53/udp, [::]:8080->80/tcp"


def test_times_of_logs() -> None:
    assert moment("1h30m", now_s=10_000) == 4600
    assert moment("250ms", now_s=1) == 0.75
    assert moment("1700000000.5") == 1700000000.5
    assert moment("1970-01-02T00:00:00+00:00") == 86_400
    assert (line_count("all"), line_count("0")) == (None, 0)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ('exec: "/x": permission denied', 126),
        ('exec: "/tmp": is a directory', 126),
        ("port is already allocated", 125),
    ],
)
def test_exit_codes_of_refused_starts(message: str, code: int) -> None:
    assert of_refused_start(EngineError(400, message)) == code


def test_a_window_without_a_display_is_refused_with_a_sentence() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in DISPLAY_VARIABLES}
    command = [sys.executable, "-m", "app"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no display" in done.stderr
