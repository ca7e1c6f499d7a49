"""Instructions from what was written: counts and kinds of arguments checked, flags read. Words stay unexpanded."""

import re
from collections.abc import Callable

from runtime.dockerfile import flags, heredoc, mounts
from runtime.dockerfile.durations import parse_ns
from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.flags import Flags
from runtime.dockerfile.lines import Node
from runtime.dockerfile.model import (
    Add,
    Arg,
    ArgPair,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Heredoc,
    Instruction,
    KeyValue,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from runtime.dockerfile.wording import did_you_mean, quoted

_INTERVAL_MIN_NS = 10**6
_RETRIES_MAX = 2**31 - 1
_ONBUILD = re.compile(r"^\s*ONBUILD\s*", re.IGNORECASE)
_NETWORKS = ("default", "none", "host")
_SECURITIES = ("sandbox", "insecure")


def read(node: Node) -> Instruction:
    """Any instruction but FROM. Raises DockerfileError without a location."""
    builder = _BUILDERS.get(node.name)
    if builder is None:
        names = [*_BUILDERS, "FROM"]
        raise DockerfileError(
            did_you_mean(f"unknown instruction: {node.keyword}", node.keyword, names, case_sensitive=False)
        )
    return builder(node, flags.parse(node.flags, flags.FLAGS.get(node.name, {})))


def _add(node: Node, given: Flags) -> Instruction:
    sources, destination, heredocs = _sources(node)
    return Add(
        location=node.location,
        text=node.text,
        sources=sources,
        destination=destination,
        heredocs=heredocs,
        chown=given.string("chown"),
        chmod=given.string("chmod"),
        link=given.boolean("link"),
        exclude=given.values("exclude"),
        checksum=given.string("checksum"),
        keep_git_dir=given.booleans.get("keep-git-dir"),
        unpack=given.booleans.get("unpack"),
    )


def _copy(node: Node, given: Flags) -> Instruction:
    sources, destination, heredocs = _sources(node)
    return Copy(
        location=node.location,
        text=node.text,
        sources=sources,
        destination=destination,
        heredocs=heredocs,
        from_=given.string("from"),
        chown=given.string("chown"),
        chmod=given.string("chmod"),
        link=given.boolean("link"),
        parents=given.boolean("parents"),
        exclude=given.values("exclude"),
    )


def _sources(node: Node) -> tuple[tuple[str, ...], str, tuple[Heredoc, ...]]:
    words = node.arguments.words
    if len(words) < 2:
        raise DockerfileError(
            f"{node.name} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    if node.arguments.is_json:
        return words[:-1], words[-1], ()
    if heredoc.parse(words[-1]) is not None:
        raise DockerfileError(f"{node.name} cannot accept a heredoc as a destination")
    found = {doc.name: doc for doc in node.heredocs}
    sources: list[str] = []
    contents: list[Heredoc] = []
    for word in words[:-1]:
        opened = heredoc.parse(word)
        if opened is None:
            sources.append(word)
        else:
            contents.append(found.get(opened.name, opened))
    return tuple(sources), words[-1], tuple(contents)


def _run(node: Node, given: Flags) -> Instruction:
    command = _command(node)
    if not command:
        raise _at_least_one(node.name)
    network = given.string("network", "default")
    if network not in _NETWORKS:
        raise DockerfileError(f"invalid network mode {quoted(network)}")
    security = given.string("security", "sandbox")
    if security not in _SECURITIES:
        raise DockerfileError(f"security {quoted(security)} is not valid")
    for mount in given.values("mount"):
        mounts.check_written(mount)
    return Run(
        location=node.location,
        text=node.text,
        command=command,
        shell_form=not node.arguments.is_json,
        heredocs=node.heredocs,
        mounts=given.values("mount"),
        network=network,
        security=security,
    )


def _cmd(node: Node, _given: Flags) -> Instruction:
    shell_form = not node.arguments.is_json
    return Cmd(location=node.location, text=node.text, command=_command(node), shell_form=shell_form)


def _entrypoint(node: Node, _given: Flags) -> Instruction:
    shell_form = not node.arguments.is_json
    return Entrypoint(location=node.location, text=node.text, command=_command(node), shell_form=shell_form)


def _command(node: Node) -> tuple[str, ...]:
    return node.arguments.words


def _shell(node: Node, _given: Flags) -> Instruction:
    words = node.arguments.words
    if not words:
        raise _at_least_one("SHELL")
    if not node.arguments.is_json:
        raise DockerfileError("SHELL requires the arguments to be in JSON form")
    return Shell(location=node.location, text=node.text, command=words)


def _pairs(node: Node) -> tuple[KeyValue, ...]:
    pairs = node.arguments.pairs
    if not pairs:
        raise _at_least_one(node.name)
    if not all(pair.key for pair in pairs):
        raise DockerfileError(f"{node.name} names can not be blank")
    return pairs


def _env(node: Node, _given: Flags) -> Instruction:
    return Env(location=node.location, text=node.text, pairs=_pairs(node))


def _label(node: Node, _given: Flags) -> Instruction:
    return Label(location=node.location, text=node.text, pairs=_pairs(node))


def _arg(node: Node, _given: Flags) -> Instruction:
    if not node.arguments.words:
        raise _at_least_one("ARG")
    pairs: list[ArgPair] = []
    for word in node.arguments.words:
        key, equals, value = word.partition("=")
        if not key:
            raise DockerfileError("ARG names can not be blank")
        pairs.append(ArgPair(key, value if equals else None))
    return Arg(location=node.location, text=node.text, pairs=tuple(pairs))


def _expose(node: Node, _given: Flags) -> Instruction:
    if not node.arguments.words:
        raise _at_least_one("EXPOSE")
    return Expose(location=node.location, text=node.text, ports=tuple(sorted(node.arguments.words)))


def _volume(node: Node, _given: Flags) -> Instruction:
    paths = tuple(path.strip() for path in node.arguments.words)
    if not paths:
        raise _at_least_one("VOLUME")
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return Volume(location=node.location, text=node.text, paths=paths)


def _user(node: Node, _given: Flags) -> Instruction:
    return User(location=node.location, text=node.text, user=_only(node))


def _workdir(node: Node, _given: Flags) -> Instruction:
    return Workdir(location=node.location, text=node.text, path=_only(node))


def _stop_signal(node: Node, _given: Flags) -> Instruction:
    return StopSignal(location=node.location, text=node.text, signal=_only(node))


def _maintainer(node: Node, _given: Flags) -> Instruction:
    return Maintainer(location=node.location, text=node.text, maintainer=_only(node))


def _onbuild(node: Node, _given: Flags) -> Instruction:
    if not node.arguments.words:
        raise _at_least_one("ONBUILD")
    name = node.arguments.words[0].split(None, 1)[0].upper()
    if name == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if name in ("MAINTAINER", "FROM"):
        raise DockerfileError(f"{name} isn't allowed as an ONBUILD trigger")
    return OnBuild(location=node.location, text=node.text, expression=_ONBUILD.sub("", node.text, count=1))


def _healthcheck(node: Node, given: Flags) -> Instruction:
    if not node.arguments.words:
        raise _at_least_one("HEALTHCHECK")
    kind, *command = node.arguments.words
    kind = kind.upper()
    if kind == "NONE":
        if command:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return Healthcheck(location=node.location, text=node.text, test=("NONE",))
    if kind != "CMD":
        raise DockerfileError(f"Unknown type {quoted(kind)} in HEALTHCHECK (try CMD)")
    if not command:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    return Healthcheck(
        location=node.location,
        text=node.text,
        test=("CMD" if node.arguments.is_json else "CMD-SHELL", *command),
        interval_ns=_interval(given, "interval"),
        timeout_ns=_interval(given, "timeout"),
        start_period_ns=_interval(given, "start-period"),
        start_interval_ns=_interval(given, "start-interval"),
        retries=_retries(given.string("retries")),
    )


def _interval(given: Flags, name: str) -> int:
    text = given.string(name)
    value_ns = parse_ns(text) if text else 0
    if value_ns and value_ns < _INTERVAL_MIN_NS:
        raise DockerfileError(f"Interval {quoted(name)} cannot be less than 1ms")
    return value_ns


def _retries(text: str) -> int:
    if not text:
        return 0
    digits = text[1:] if text[0] in "+-" else text
    if not (digits.isascii() and digits.isdigit()):
        raise DockerfileError(f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax")
    if len(digits) > 10 or int(digits) > _RETRIES_MAX:
        raise DockerfileError(f"strconv.ParseInt: parsing {quoted(text)}: value out of range")
    if text.startswith("-") and int(digits):
        raise DockerfileError(f"--retries cannot be negative ({text})")
    return int(digits)


def _only(node: Node) -> str:
    if len(node.arguments.words) != 1:
        raise DockerfileError(f"{node.name} requires exactly one argument")
    return node.arguments.words[0]


def _at_least_one(name: str) -> DockerfileError:
    return DockerfileError(f"{name} requires at least one argument")


_BUILDERS: dict[str, Callable[[Node, Flags], Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
