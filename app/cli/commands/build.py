import contextlib
import itertools
import json
import os
import re
import sys
import time
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from app.cli.context import Context
from app.cli.progress import ByteBar, StatusLine
from app.cli.transfers import show_transfer
from app.core.errors import UserError
from app.engine.errors import EngineError
from app.services import builds
from app.services.build_caches import write_caches
from app.services.build_context import BEGIN_BYTES, is_archive
from app.services.build_outputs import OutputTo, parse_output, write_output
from app.services.images import with_default_tag
from app.services.registry_logins import Logins, server_of

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_PIECE_BYTES = 1 << 18
_STEP = re.compile(r"Step (\d+/\d+) : (.*)")


def configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "context", metavar="PATH|URL|-", help="the files to build from; - is a Dockerfile or a tar on stdin"
    )
    parser.add_argument("-f", "--file", metavar="FILE", default="", help="the Dockerfile (default: PATH/Dockerfile)")
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="NAME", help="a name for the image")
    parser.add_argument("--target", default="", metavar="STAGE", help="the stage to build")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME[=VALUE]")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--no-cache", action="store_true", help="do every step anew")
    parser.add_argument("--pull", action="store_true", help="look for newer base images")
    parser.add_argument("--cache-from", action="append", default=[], metavar="IMAGE|type=registry|local,...")
    parser.add_argument(
        "--cache-to", action="append", default=[], metavar="type=registry|local|inline,...", help="export the cache"
    )
    parser.add_argument("--platform", default="", metavar="OS/ARCH")
    parser.add_argument("--network", default="", metavar="MODE", help="of RUN: default, none, host or a network")
    parser.add_argument("--add-host", action="append", default=[], metavar="NAME:ADDRESS")
    parser.add_argument("-m", "--memory", default="", metavar="SIZE")
    parser.add_argument("--shm-size", default="", metavar="SIZE")
    parser.add_argument("--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]")
    parser.add_argument("--cgroup-parent", default="", metavar="PATH", help="the cgroup RUN is below")
    parser.add_argument("--secret", action="append", default=[], metavar="id=ID[,src=FILE|,env=NAME]")
    parser.add_argument("--ssh", action="append", default=[], metavar="default|ID[=SOCKET]", help="lend an SSH agent")
    parser.add_argument(
        "--build-context",
        action="append",
        default=[],
        metavar="NAME=DIR|docker-image://NAME|URL",
        help="for --from=NAME",
    )
    parser.add_argument("--allow", action="append", default=[], metavar="PERMISSION", help="security.insecure")
    parser.add_argument("--squash", action="store_true", help="refused: layers stay as the steps made them")
    parser.add_argument(
        *("-o", "--output"),
        action="append",
        default=[],
        metavar="DEST",
        help="DIR, or type=local|tar|docker|oci,dest=PATH, or type=image|registry,name=NAME,push=true",
    )
    parser.add_argument("--push", action="store_true", help="short for -o type=registry")
    parser.add_argument("--load", action="store_true", help="short for -o type=docker, which always is")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the image's id only")
    parser.add_argument("--check", action="store_true", help="look for mistakes in the Dockerfile, and build nothing")
    parser.add_argument("--progress", choices=("auto", "tty", "plain", "quiet"), default="auto")
    parser.add_argument("--iidfile", type=Path, metavar="FILE", help="write the image's id there")
    parser.add_argument("--metadata-file", type=Path, metavar="FILE", help="write what was built there, as JSON")


def run(context: Context, arguments: Namespace) -> int:
    if arguments.squash:
        raise UserError(
            "--squash is not supported: layers stay as the steps made them.",
            "Copy into a last stage to have one layer.",
        )
    arguments.quiet |= arguments.progress == "quiet"
    options = _options(arguments)
    if arguments.check:
        report, clean = builds.check(context.client, options)
        sys.stdout.write(f"{report}\n")
        return 0 if clean else 1
    outputs = [parse_output(text) for text in arguments.output]
    if arguments.push:
        outputs.append(OutputTo("registry", push=True))
    options.tags += [name for output in outputs for name in output.names if name not in options.tags]
    if any(output.push for output in outputs) and not options.tags:
        raise UserError("There is no name to push the image by.", "Give it one: -t REGISTRY/NAME.")
    if arguments.iidfile:
        arguments.iidfile.unlink(missing_ok=True)
    image_id = _build(
        context, options, arguments, sys.stderr if any(one.destination == "-" for one in outputs) else sys.stdout
    )
    if arguments.iidfile:
        arguments.iidfile.write_text(image_id)
    if arguments.metadata_file:
        facts = {"containerimage.config.digest": image_id, "image.name": ",".join(options.tags)}
        arguments.metadata_file.write_text(json.dumps(facts, indent=2) + "\n")
    write_caches(context.client, image_id, options.cache_to)
    for output in outputs:
        write_output(context.client, image_id, options.tags, output, sys.stdout.buffer)
    if any(output.push for output in outputs):
        for tag in options.tags:
            _push(context, tag, arguments.quiet)
    return 0


def _build(context: Context, options: builds.BuildOptions, arguments: Namespace, out: TextIO) -> str:
    """The image's id; what the engine tells goes to `out`."""
    interactive = arguments.progress != "plain" and sys.stderr.isatty()
    view: PlainView | StepView = StepView() if interactive else PlainView(out)
    image_id = ""
    kept: list[str] = []
    with contextlib.ExitStack() as opened:
        with ByteBar("Sending context", None) as bar:
            messages = opened.enter_context(builds.started(context.client, options, bar.advance))
        try:
            for message in messages:
                if "aux" in message:
                    image_id = message["aux"].get("ID", image_id)
                if arguments.quiet:
                    kept.append(str(message.get("stream", "")))
                else:
                    view.show(message)
        except EngineError:
            view.failed()
            sys.stderr.write("".join(kept))
            raise
    view.end()
    if arguments.quiet:
        out.write(f"{image_id}\n")
        out.flush()
    return image_id


def _push(context: Context, name: str, quiet: bool) -> None:
    repository, _, tag = with_default_tag(name).rpartition(":")
    server = server_of(repository)
    with context.client.push_image(repository, tag, Logins().find(server).header(server)) as messages:
        show_transfer(f"Pushing {name}", messages, quiet)


def _options(arguments: Namespace) -> builds.BuildOptions:
    text = archive = None
    directory, dockerfile = arguments.context, arguments.file
    if dockerfile == "-" or directory == "-":
        if dockerfile == "-" and directory == "-":
            raise UserError("The context and the Dockerfile cannot both come from standard input.")
        begin = sys.stdin.buffer.read(BEGIN_BYTES)
        if directory == "-" and is_archive(begin):
            archive = itertools.chain((begin,), iter(partial(sys.stdin.buffer.read, _PIECE_BYTES), b""))
        else:
            text, dockerfile = begin + sys.stdin.buffer.read(), ""
    options = builds.BuildOptions(directory, dockerfile, text, archive)
    options.tags, options.target, options.platform = arguments.tag, arguments.target, arguments.platform
    options.build_args = dict(_argument(entry) for entry in arguments.build_arg)
    options.labels = dict(entry.partition("=")[::2] for entry in arguments.label)
    options.no_cache, options.pull, options.cache_from = arguments.no_cache, arguments.pull, arguments.cache_from
    options.cache_to = arguments.cache_to
    options.network, options.add_hosts = arguments.network, arguments.add_host
    options.memory_bytes, options.shm_bytes = _size(arguments.memory), _size(arguments.shm_size)
    options.ulimits, options.cgroup_parent = [_ulimit(entry) for entry in arguments.ulimit], arguments.cgroup_parent
    options.secrets = dict(_secret(entry) for entry in arguments.secret)
    options.contexts = dict(_context(entry) for entry in arguments.build_context)
    options.agents = dict(_agent(entry) for entry in arguments.ssh)
    options.allowed = arguments.allow
    return options


def _argument(entry: str) -> tuple[str, str | None]:
    """`NAME` alone takes the value from the environment, and is left to the Dockerfile when there is none."""
    name, equals, value = entry.partition("=")
    return name, value if equals else os.environ.get(name)


def _context(entry: str) -> tuple[str, str]:
    name, equals, source = entry.partition("=")
    if not equals or not name or not source:
        raise UserError(
            f"--build-context {entry}: invalid context value.", "Write NAME=DIR, NAME=docker-image://IMAGE or NAME=URL."
        )
    if source.startswith(("oci-layout://", "target:", "input:")):
        raise UserError(
            f"--build-context {entry}: {source.partition(':')[0]} is not supported by this version of Wherry."
        )
    return name, source


def _agent(entry: str) -> tuple[str, str]:
    """`ID` stands for the agent of SSH_AUTH_SOCK."""
    id, equals, path = entry.partition("=")
    path = path if equals else os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise UserError(
            f"--ssh {entry}: there is no SSH agent: SSH_AUTH_SOCK is not set.", "Start one: `eval $(ssh-agent)`."
        )
    if "," in path or not Path(path).is_socket():
        raise UserError(
            f"--ssh {entry}: {path} is no socket.", "Add key files to an agent with `ssh-add FILE`, and lend that."
        )
    return id, path


def _secret(entry: str) -> tuple[str, bytes]:
    values = dict(part.partition("=")[::2] for part in entry.split(","))
    source, variable = values.get("src", values.get("source", "")), values.get("env", "")
    id = values.get("id", "")
    if not id:
        raise UserError(f"--secret {entry}: it has no id.", "Write id=ID,src=FILE or id=ID,env=NAME.")
    if not source:
        variable = variable or id
        if variable in os.environ:
            return id, os.environ[variable].encode("utf-8", "surrogateescape")
        source = id
    try:
        return id, Path(source).read_bytes()
    except OSError as failed:
        raise UserError(f"--secret {entry}: {source} cannot be read: {failed.strerror}.") from failed


def _ulimit(entry: str) -> dict[str, Any]:
    match = re.fullmatch(r"([a-z]+)=(-?\d+)(?::(-?\d+))?", entry)
    if not match:
        raise UserError(f"--ulimit {entry}: invalid ulimit argument.", "Write it like nofile=1024:2048.")
    return {"Name": match[1], "Soft": int(match[2]), "Hard": int(match[3] or match[2])}


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([bkmg]?)b?", text.lower())
    if text and not match:
        raise UserError(f"{text!r} is no size.", "Write it like 512m or 2g.")
    return int(match[1]) * _UNITS[match[2]] if match else 0


class PlainView:
    """Everything as it comes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, message: dict[str, Any]) -> None:
        if "stream" in message:
            self._out.write(str(message["stream"]))
            self._out.flush()
        elif message.get("status"):
            self._out.write(f"{message['status']}\n")

    def failed(self) -> None:
        self._out.flush()

    def end(self) -> None:
        self._out.flush()


class StepView:
    """A line for each step, rewritten while it goes on; what it wrote is shown when it fails."""

    def __init__(self) -> None:
        self._line = StatusLine()
        self._step = ""
        self._began_s = 0.0
        self._cached = False
        self._log: list[str] = []

    def show(self, message: dict[str, Any]) -> None:
        text = str(message.get("stream", "") or message.get("status", ""))
        if match := _STEP.match(text):
            self._finish()
            self._step, self._began_s = f"[{match[1]}] {match[2].splitlines()[0]}", time.monotonic()
        elif text.startswith(("Successfully ", "[Warning]")):
            self._finish()
            sys.stderr.write(text)
        elif " ---> Using cache" in text:
            self._cached = True
        elif not text.startswith(" ---> "):
            self._log.append(text)
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        self._line.show(f"{self._step}  {last[:40]}")

    def _finish(self) -> None:
        if self._step:
            self._line.clear()
            took = "cached" if self._cached else f"{time.monotonic() - self._began_s:.1f} s"
            sys.stderr.write(f"{self._step}  {took}\n")
        self._step, self._cached, self._log = "", False, []

    def failed(self) -> None:
        self._line.clear()
        sys.stderr.write(f"{self._step}  failed\n" + "".join(self._log))

    def end(self) -> None:
        self._finish()
        self._line.clear()
