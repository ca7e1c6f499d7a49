"""Work off the main thread, with its outcome brought back to it.

The main thread's event loop is not known here: whoever makes a `Background` says how to run a function there
(`deliver`), for Qt a queued signal, for a test a queue.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Protocol, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item", covariant=True)
Deliver = Callable[[Callable[[], None]], None]
OnError = Callable[[Exception], None]


class ClosableStream(Protocol[Item]):
    """Something to iterate in one thread and close from another, after which the iteration ends."""

    def __iter__(self) -> Iterator[Item]: ...
    def close(self) -> None: ...


class Job:
    """Work under way. After `cancel()`, called on the main thread, no callback of it runs any more."""

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._close: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Forget the outcome; a stream is closed, other work runs to its end unheard."""
        with self._lock:
            self.cancelled = True
            close = self._close
        if close is not None:
            close()

    def _opened(self, close: Callable[[], None]) -> None:
        with self._lock:
            self._close = close
            too_late = self.cancelled
        if too_late:
            close()


class Background:
    """A few worker threads for calls that end, and a thread of its own for each stream that is followed.

    All threads are daemons: a program may exit while an engine takes its time.
    """

    def __init__(self, deliver: Deliver, workers: int = 4) -> None:
        self._deliver = deliver
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._jobs: set[Job] = set()
        self._numbers = itertools.count(1)
        self._closed = False
        self._workers = workers
        for _ in range(workers):
            self._thread(self._serve)

    def submit(
        self,
        work: Callable[[], Result],
        on_result: Callable[[Result], None] | None = None,
        on_error: OnError | None = None,
    ) -> Job:
        """Run `work` on a worker thread, then one of the callbacks on the main thread."""
        job = Job()

        def run() -> None:
            if job.cancelled:
                return
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the submitter hears of it
                self._tell(job, on_error, error)
            else:
                self._tell(job, on_result, result)

        self._work.put(run)
        return job

    def follow(
        self,
        open_stream: Callable[[], ClosableStream[Item]],
        on_item: Callable[[Item], None],
        on_end: Callable[[], None] | None = None,
        on_error: OnError | None = None,
    ) -> Job:
        """Open a stream on a thread of its own and hand each item to the main thread, in order."""
        job = Job()
        self._jobs.add(job)

        def run() -> None:
            try:
                stream = open_stream()
                job._opened(stream.close)
                for item in stream:
                    self._tell(job, on_item, item)
            except Exception as error:  # noqa: BLE001 - whatever it is, the follower hears of it
                self._tell(job, on_error, error)
            else:
                self._tell(job, None if on_end is None else lambda _: on_end(), None)
            finally:
                self._jobs.discard(job)

        self._thread(run)
        return job

    def close(self) -> None:
        """Cancel all that is under way; no callback runs after this returns (on the main thread)."""
        self._closed = True
        for job in list(self._jobs):
            job.cancel()
        for _ in range(self._workers):
            self._work.put(None)

    def _serve(self) -> None:
        for work in iter(self._work.get, None):
            work()

    def _tell(self, job: Job, callback: Callable[[Result], None] | None, value: Result) -> None:
        if callback is None:
            return

        def on_main_thread() -> None:
            if not (job.cancelled or self._closed):
                callback(value)

        self._deliver(on_main_thread)

    def _thread(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, daemon=True, name=f"background-{next(self._numbers)}").start()
