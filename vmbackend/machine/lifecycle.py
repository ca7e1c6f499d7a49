"""One machine from start to stop, and everything that has to stay true in between.

Runs in the hostagent, on one event loop. `Machine` is the only writer of the machine's state.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

from vmbackend import host
from vmbackend.errors import GuestUnreachable, MachineError, StartFailed
from vmbackend.forward.engine_api import EngineApi
from vmbackend.forward.ports import PublishedPort
from vmbackend.machine.boot import Prepared, RunningGuest, boot, prepare
from vmbackend.machine.events import EventHub, MachineEvent
from vmbackend.machine.orphan import end_orphan
from vmbackend.machine.paths import MachinePaths
from vmbackend.machine.requirements import Unmet
from vmbackend.machine.states import Event, State, next_state
from vmbackend.machine.status import MachineStatus
