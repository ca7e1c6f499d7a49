import json
import os
import re
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from app.cli.context import Context
from app.cli.progress import ByteBar, StatusLine
from app.core.errors import UserError
from app.engine.errors import EngineError
from app.services import builds

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_STEP = re.compile(r"Step (\d+/\d+) : (.*)")


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("context", metavar="PATH|URL|-", help="the files to build from; - is a Dockerfile on stdin")
    parser.add_argument("-f", "--file", metavar="FILE", default="", help="the Dockerfile (default: PATH/Dockerfile)")
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="NAME", help="a name for the image")
    parser.add_argument("--target", default="", metavar="STAGE", help="the stage to build")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME[=VALUE]")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--no-cache", action="store_true", help="do every step anew")
    parser.add_argument("--pull", action="store_true", help="look for newer base images")
    parser.add_argument("--cache-from", action="append", default=[], metavar="IMAGE")
    parser.add_argument("--platform", default="", metavar="OS/ARCH")
    parser.add_argument("--network", default="", metavar="MODE", help="of RUN: default, none, host or a network")
    parser.add_argument("--add-host", action="append", default=[], metavar="NAME:ADDRESS")
    parser.add_argument("-m", "--memory", default="", metavar="SIZE")
    parser.add_argument("--shm-size", default="", metavar="SIZE")
    parser.add_argument("--secret", action="append", default=[], metavar="id=ID[,src=FILE|,env=NAME]")
    parser.add_argument("-o", "--output", metavar="DEST", help="the image's files: DIR, or type=local|tar,dest=PATH")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the image's id only")
    parser.add_argument("--check", action="store_true", help="look for mistakes in the Dockerfile, and build nothing")
    parser.add_argument("--progress", choices=("auto", "plain"), default="auto")
    parser.add_argument("--iidfile", type=Path, metavar="FILE", help="write the image's id there")
    parser.add_argument("--metadata-file", type=Path, metavar="FILE", help="write what was built there, as JSON")


def run(context: Context, arguments: Namespace) -> int:
    options = _options(arguments)
    if arguments.check:
        report, clean = builds.check(options)
        sys.stdout.write(f"{report}\n")
        return 0 if clean else 1
    output = builds.parse_output(arguments.output) if arguments.output else None
    if arguments.iidfile:
        arguments.iidfile.unlink(missing_ok=True)
    interactive = arguments.progress == "auto" and sys.stderr.isatty()
    view: PlainView | StepView = StepView() if interactive else PlainView()
    image_id = ""
    with ByteBar("Sending context", None) as bar:
        messages = builds.start(context.client, options, bar.advance)
    kept: list[str] = []
    with messages:
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
        sys.stdout.write(f"{image_id}\n")
    if arguments.iidfile:
        arguments.iidfile.write_text(image_id)
    if arguments.metadata_file:
        facts = {"containerimage.config.digest": image_id, "image.name": ",".join(options.tags)}
        arguments.metadata_file.write_text(json.dumps(facts, indent=2) + "\n")
    if output:
        builds.write_output(context.client, image_id, output, sys.stdout.buffer)
    return 0


def _options(arguments: Namespace) -> builds.BuildOptions:
    text = None
    directory, dockerfile = arguments.context, arguments.file
    if dockerfile == "-" or directory == "-":
        if dockerfile == "-" and directory == "-":
            raise UserError("The context and the Dockerfile cannot both come from standard input.")
        text, dockerfile = sys.stdin.buffer.read(), ""
    options = builds.BuildOptions(directory, dockerfile, text)
    options.tags, options.target, options.platform = arguments.tag, arguments.target, arguments.platform
    options.build_args = dict(_argument(entry) for entry in arguments.build_arg)
    options.labels = dict(entry.partition("=")[::2] for entry in arguments.label)
    options.no_cache, options.pull, options.cache_from = arguments.no_cache, arguments.pull, arguments.cache_from
    options.network, options.add_hosts = arguments.network, arguments.add_host
    options.memory_bytes, options.shm_bytes = _size(arguments.memory), _size(arguments.shm_size)
    options.secrets = dict(_secret(entry) for entry in arguments.secret)
    return options


def _argument(entry: str) -> tuple[str, str | None]:
    """`NAME` alone takes the value from the environment, and is left to the Dockerfile when there is none."""
    name, equals, value = entry.partition("=")
    return name, value if equals else os.environ.get(name)


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


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([bkmg]?)b?", text.lower())
    if text and not match:
        raise UserError(f"{text!r} is no size.", "Write it like 512m or 2g.")
    return int(match[1]) * _UNITS[match[2]] if match else 0


class PlainView:
    """Everything as it comes."""

    def show(self, message: dict[str, Any]) -> None:
        if "stream" in message:
            sys.stdout.write(str(message["stream"]))
            sys.stdout.flush()
        elif message.get("status"):
            sys.stdout.write(f"{message['status']}\n")

    def failed(self) -> None:
        sys.stdout.flush()

    def end(self) -> None:
        sys.stdout.flush()


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
