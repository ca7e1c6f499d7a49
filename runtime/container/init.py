"""The child's half: apply the plan, find the program, become it."""

import errno
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from runtime.container.executable import find_executable
from runtime.container.op import Init, Phase, Refused
from runtime.container.report import Report


class Program(NamedTuple):
    """What is executed at the end of a plan."""

    args: Sequence[str]
    environment: Mapping[str, str]


class Plan(NamedTuple):
    """`prepare` is applied before the program is looked up, `commit` after, just before exec."""

    program: Program
    prepare: list[Phase]
    commit: list[Phase]


def run(plan: Plan, report: Report, stage: int = -1) -> NoReturn:
    """Apply `plan` and execute its program; on any failure report it and end the process."""
    init = Init(report, plan.program.environment, stage)
    if not _apply(plan.prepare, init):
        os._exit(1)
    args = plan.program.args
    try:
        path = find_executable(args[0], init.environment.get("PATH", ""))
    except Refused as refusal:
        report.failed("exec", refusal.errno, str(refusal))
        os._exit(_exit_code(refusal.errno))
    if not _apply(plan.commit, init):
        os._exit(1)
    try:
        report.ready()
        os.execve(path, list(args), init.environment)
    except OSError as error:
        report.failed("exec", error.errno or 0, f"exec {path}: {reason(error)}")
        os._exit(_exit_code(error.errno or 0))


def reason(error: OSError) -> str:
    """The kernel's reason as it is written inside a sentence."""
    words = error.strerror or str(error)
    return words[:1].lower() + words[1:]


def _apply(phases: list[Phase], init: Init) -> bool:
    for phase in phases:
        for op in phase.ops:
            try:
                op.apply(init)
            except Refused as refusal:
                init.report.failed(phase.name, refusal.errno, str(refusal))
                return False
            except OSError as error:
                init.report.failed(phase.name, error.errno or 0, _sentence(op.describe(), error))
                return False
    return True


def _sentence(doing: str, error: OSError) -> str:
    filename = error.filename
    if filename is None or str(filename) in doing:
        return f"{doing}: {reason(error)}"
    return f"{doing}: {filename}: {reason(error)}"


def _exit_code(code: int) -> int:
    return 127 if code == errno.ENOENT else 126
