"""Inits that stand ready: cloned, with a template applied, waiting to be told which container they are.

A start that finds one saves half of what it costs: clone3, the copying of the interpreter's pages, and a third of the
system calls. The parent goes away: so do they.
"""

import marshal
import os
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from runtime.container import init
from runtime.container.facts import HostFacts
from runtime.container.op import Init, Refused
from runtime.container.ops_mount import tmpfs
from runtime.container.plan import Launch, Stdio, compile_container
from runtime.container.report import Report, send_order
from runtime.container.spawn import Child, keep_only, spawn
from runtime.container.start import run_compiled, with_filter
from runtime.container.template import Template, without_staged
from runtime.linux import mounts
from runtime.linux.process import set_name

if TYPE_CHECKING:
    from runtime.oci.spec import Spec

PROCESS_NAME = "wherry-ready"


class Order(NamedTuple):
    """Which container an init becomes: marshalled, and the descriptors it names by their positions."""

    message: bytes
    fds: list[int]


def order(spec: "Spec", launch: Launch) -> Order:
    """For the init that becomes this container."""
    fds = [fd for fd in (*launch.stdio, launch.netns) if fd is not None]
    numbers = [None if fd is None else fds.index(fd) for fd in (*launch.stdio, launch.netns)]
    words: Any = (spec, launch.id, launch.bundle, dict(launch.overlay or {}), list(launch.join), numbers)
    return Order(marshal.dumps(words), fds)


def prepare(template: Template, example: Order, stage: str, facts: HostFacts) -> Child:
    """Make an init that applies `template` below the directory `stage`, in its own mount namespace, and waits.

    `example` is an order like those to expect.
    """

    def plan(spec: "Spec", launch: Launch) -> init.Plan:
        return without_staged(compile_container(spec, launch, facts), template)

    def main(report: Report) -> NoReturn:
        keep_only(report.fileno())
        set_name(PROCESS_NAME)
        try:
            root = _apply(template, stage, report)
        except (OSError, Refused):
            os._exit(1)  # the next start is one from nothing, and says why
        # Once for practice: what a process touches for the first time after it was cloned, the kernel has to copy.
        plan(*_decoded(example))
        received = report.await_order()
        if received is None:
            os._exit(0)
        spec, launch = _decoded(Order(*received))
        run_compiled(lambda: plan(spec, with_filter(launch, spec, launch.bundle)), report, root)

    return spawn(main, template.flags)


def become(child: Child, wanted: Order) -> None:
    """Have a prepared init start this container, which must be of its template; its report goes on as any other's.

    Raises OSError if it is gone, or the container takes more words than fit a message.
    """
    send_order(child.report, *wanted)


def _decoded(order: Order) -> tuple["Spec", Launch]:
    spec, id, bundle, overlay, join, numbers = marshal.loads(order.message)
    stdin, stdout, stderr, netns = (None if number is None else order.fds[number] for number in numbers)
    return spec, Launch(id, bundle, Stdio(stdin, stdout, stderr), overlay or None, join, netns)


def _apply(template: Template, stage: str, report: Report) -> int:
    state = Init(report, {})
    for number, (_, op) in enumerate(template.ops):
        op.apply(state)
        if number == 0:  # from here on, nothing shows on the host
            state.set_root(_mount_stage(stage))
    return state.root


def _mount_stage(stage: str) -> int:
    root = tmpfs("stage", attributes=0)
    target = os.open(stage, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.move_mount(root, target, stage)
    os.close(target)
    return root
