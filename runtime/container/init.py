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


class NotStarted(Exception):
    """The plan has failed, and that is reported; a process of its own ends with `exit_code`."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def run(plan: Plan, report: Report, stage: int = -1) -> NoReturn:
    """Apply `plan` and execute its program; on any failure report it and end the process."""
    init = Init(report, plan.program.environment, stage)
    try:
        path = prepare(plan, init)
        report.ready()
        os.execve(path, list(plan.program.args), init.environment)
    except NotStarted as failure:
        os._exit(failure.exit_code)
    except OSError as error:
        report.failed("exec", error.errno or 0, f"exec {path}: {reason(error)}")
        os._exit(_exit_code(error.errno or 0))


def prepare(plan: Plan, init: Init) -> str:
    """Apply `plan`, and return the path to execute; raises NotStarted."""
    _apply(plan.prepare, init)
    try:
        path = find_executable(plan.program.args[0], init.environment.get("PATH", ""))
    except Refused as refusal:
        init.report.failed("exec", refusal.errno, str(refusal))
        raise NotStarted(_exit_code(refusal.errno)) from None
    _apply(plan.commit, init)
    return path


def reason(error: OSError) -> str:
    """The kernel's reason as it is written inside a sentence."""
    words = error.strerror or str(error)
    return words[:1].lower() + words[1:]


def _apply(phases: list[Phase], init: Init) -> None:
    for phase in phases:
        for op in phase.ops:
            try:
                op.apply(init)
            except Refused as refusal:
                init.report.failed(phase.name, refusal.errno, str(refusal))
                raise NotStarted(1) from None
            except OSError as error:
                init.report.failed(phase.name, error.errno or 0, _sentence(op.describe(), error))
                raise NotStarted(1) from None


def _sentence(doing: str, error: OSError) -> str:
    filename = error.filename
    if filename is None or str(filename) in doing:
        return f"{doing}: {reason(error)}"
    return f"{doing}: {filename}: {reason(error)}"


def _exit_code(code: int) -> int:
    return 127 if code == errno.ENOENT else 126
