"""A Dockerfile's text into its model."""

import re
from dataclasses import replace

from runtime.dockerfile import flags, instructions, lines
from runtime.dockerfile.errors import DockerfileError, on_line
from runtime.dockerfile.lines import Node
from runtime.dockerfile.model import Arg, Dockerfile, Instruction, Stage
from runtime.dockerfile.wording import quoted

_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")


def parse(source: str | bytes) -> Dockerfile:
    """Raises DockerfileError with a location, in BuildKit's words. Bytes that are no UTF-8 are replaced."""
    text = source.decode("utf-8", "replace") if isinstance(source, bytes) else source
    text = text.removeprefix("\ufeff")
    return of_lines(lines.read(text), text)


def of_lines(read: lines.Lines, source: str) -> Dockerfile:
    """The model of a file whose lines are read already."""
    global_args: list[Arg] = []
    stages: list[tuple[Stage, list[Instruction]]] = []
    for node in read.nodes:
        try:
            if node.name == "FROM":
                stages.append((_stage(node, len(stages)), []))
                continue
            instruction = instructions.read(node)
        except DockerfileError as error:
            raise on_line(error, node.location) from error
        if stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            global_args.append(instruction)
        else:
            raise DockerfileError("no build stage in current context", node.location)
    if not stages:
        raise DockerfileError("dockerfile contains no stages to build", read.nodes[-1].location)
    return Dockerfile(
        directives=read.directives,
        global_args=tuple(global_args),
        stages=tuple(replace(stage, instructions=tuple(body)) for stage, body in stages),
        source=source,
    )


def parse_onbuild(expression: str, trigger: Instruction | Stage) -> Instruction:
    """The instruction an ONBUILD of a base image stands for; `trigger` gives the place to blame: the FROM.

    Raises DockerfileError with the location of `trigger`.
    """
    try:
        nodes = lines.read(expression).nodes
        if len(nodes) != 1 or nodes[0].name in ("FROM", "ONBUILD", "MAINTAINER"):
            raise DockerfileError(f"{nodes[0].name} isn't allowed as an ONBUILD trigger")
        node = nodes[0]
        node.location = trigger.location
        return instructions.read(node)
    except DockerfileError as error:
        raise DockerfileError(f"failed to parse onbuild trigger: {expression}: {error}", trigger.location) from error


def _stage(node: Node, index: int) -> Stage:
    words = node.arguments.words
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise DockerfileError(
                f"invalid name for build stage: {quoted(words[2])}, name can't start with a number or contain symbols"
            )
    elif len(words) != 1:
        raise DockerfileError("FROM requires either one or three arguments")
    platform = flags.parse(node.flags, flags.FLAGS["FROM"]).string("platform")
    comment = next((line[len(name) + 1 :] for line in node.comments if name and line.startswith(f"{name} ")), "")
    return Stage(index, name, words[0], platform, (), node.location, node.text, comment)
