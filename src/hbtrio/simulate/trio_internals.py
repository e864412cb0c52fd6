"""Steps a run of trio by hand: the one module that uses trio's internals.

``trio.run`` drives its loop, a generator, until the main task is done. Here each simulated process
has a runner and a loop of its own, and its owner takes every step of it. So a process can stand
still between any two of its task steps while others run, and one that is killed is never stepped
again: none of its ``finally`` blocks run.

The loop is a copy of trio's that pauses before task steps and passes where its owner says so, and
takes a batch's order from the owner. Nothing of trio itself is changed. Since the copy and the
runner depend on private names, the import fails unless the installed trio has exactly the source
this was written for.
"""

from __future__ import annotations

import contextvars
import ctypes
import enum
import hashlib
import inspect
import itertools
import math
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator, MutableSequence
from heapq import heappush
from typing import Any, Final, NoReturn, TypeVar

import attrs
import trio
from trio._core import _asyncgens, _entry_queue, _run
from trio._core._ki import KIManager

from hbtrio.errors import ExitStatus, UserError
from hbtrio.simulate.run_owner import Owner

__all__ = ["Main", "SteppedRun", "Stop"]

#: The trio that the simulator was written for; the extra ``simulate`` installs it.
TRIO: Final = "0.35.0"

#: The digest of its modules that are used here, see :func:`_digest`.
SOURCE: Final = "16d96a2d29b4d36b94daccbce004256a"

#: What is replaced in the loop's source.
_EDITS: Final = (
    ("def unrolled_run(", "def stepped_run("),
    # It is not waited: what it would be limited to does not matter.
    ("            timeout = min(max(0, timeout), _MAX_TIMEOUT)\n", ""),
    # The owner decides when the next pass begins, and when the next task step is taken. There are
    # no events: a simulated process has no descriptors.
    (
        "            events = yield timeout\n"
        "            runner.io_manager.process_events(events)\n",
        "            events = None\n"
        "            if runner.io_manager.pauses_after_pass():\n"
        "                yield None\n",
    ),
    (
        "                task = batch.pop()\n",
        "                if runner.io_manager.pauses_before(batch[-1].name):\n"
        "                    yield batch[-1].name\n"
        "                task = batch.pop()\n",
    ),
    # One task is in order.
    ("            if _ALLOW_DETERMINISTIC_SCHEDULING:\n", "            if len(batch) > 1:\n"),
    ("                _r.shuffle(batch)\n", "                runner.io_manager.shuffle(batch)\n"),
    ("                if _r.random() < 0.5:\n", "                if False:\n"),
)

T = TypeVar("T")

#: An async function without arguments.
Main = Callable[[], Awaitable[object]]

#: Puts the tasks of a batch in order.
Shuffle = Callable[[MutableSequence[Any]], None]


class Stop(enum.Enum):
    """Where a step has ended."""

    #: Before a task step; ``SteppedRun.task_name`` is the task's name.
    BEFORE_TASK = enum.auto()
    #: Where trio would wait for I/O.
    AFTER_PASS = enum.auto()
    #: The run is over; ``SteppedRun.error`` says how.
    ENDED = enum.auto()


def check_source(version: str, digest: str) -> None:
    """Checks that the simulator was written for an installed trio.

    Args:
        version: its version.
        digest: of its source.

    Raises:
        UserError: it was not; the text says which trio is needed (status MISSING_PACKAGE).
    """
    need = f"the simulator needs trio {TRIO}: pip install 'hbtrio[simulate]'"
    if version != TRIO:
        raise UserError(f"trio {version} is installed; {need}", ExitStatus.MISSING_PACKAGE)
    if digest != SOURCE:
        raise UserError(
            f"the installed trio {version} has been changed; {need}", ExitStatus.MISSING_PACKAGE
        )


def edited(source: str) -> str:
    """Returns the loop's source with all edits.

    Raises:
        UserError: an edit does not fit exactly once (status MISSING_PACKAGE).
    """
    for old, new in _EDITS:
        if source.count(old) != 1:
            raise UserError(
                f"trio's run loop has no line {old.splitlines()[-1].strip()!r}; "
                f"the simulator needs trio {TRIO}",
                ExitStatus.MISSING_PACKAGE,
            )
        source = source.replace(old, new)
    return source


def _digest() -> str:
    source = "".join(map(inspect.getsource, (_run, _asyncgens, _entry_queue)))
    return hashlib.blake2b(source.encode(), digest_size=16).hexdigest()


def _compiled_loop() -> Callable[..., Generator[Any, Any, None]]:
    names = dict(vars(_run))
    source = edited(inspect.getsource(_run.unrolled_run))
    exec(compile(source, "<trio's run loop, stepped>", "exec"), names)
    loop: Callable[..., Generator[Any, Any, None]] = names["stepped_run"]
    return loop


check_source(trio.__version__, _digest())
_LOOP: Final = _compiled_loop()


@attrs.define(eq=False)
class _OrderedDeadlines(_run.Deadlines):
    """Deadlines that tie by the order of their registration; trio's tie by address."""

    _numbers: Iterator[int] = attrs.Factory(itertools.count)

    def add(self, deadline: float, cancel_scope: trio.CancelScope) -> None:
        heappush(self._heap, (deadline, next(self._numbers), cancel_scope))
        self._active += 1


class _Clock(trio.abc.Clock):
    """The clock of a run; notes the next deadline instead of waiting for it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.deadline = math.inf
        # In place of the method, which would only call it.
        self.current_time = now  # type: ignore[method-assign]

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        raise NotImplementedError

    def deadline_to_sleep_time(self, deadline: float) -> float:
        self.deadline = deadline
        return 0.0


class _NoDescriptors:
    """In place of epoll: a simulated process has no descriptors."""

    def __init__(self, shuffle: Shuffle, owner: Owner) -> None:
        self.shuffle = shuffle
        self.pauses_before = owner.pauses_before
        self.pauses_after_pass = owner.pauses_after_pass

    def close(self) -> None:
        pass

    def statistics(self) -> None:
        pass

    async def wait_readable(self, fd: object) -> NoReturn:
        raise RuntimeError(f"a simulated process waits for the real descriptor {fd}")

    wait_writable = wait_readable

    def notify_closing(self, fd: object) -> NoReturn:
        raise RuntimeError(f"a simulated process closes the real descriptor {fd}")


class _WakeUp:
    """In place of the socket pair of ``run_sync_soon``."""

    def __init__(self, on_wake: Callable[[], None]) -> None:
        self._on_wake = on_wake
        self._woken = False
        self._task: Any = None
        self.reschedule: Callable[[Any], None]

    async def wait_woken(self) -> None:
        if not self._woken:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._woken = False

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wakeup_thread_and_signal_safe(self) -> None:
        self._woken = True
        task, self._task = self._task, None
        if task is not None:
            self.reschedule(task)
            self._on_wake()

    def close(self) -> None:
        pass


class SteppedRun:
    """A run of trio that stands still until :meth:`step` is called.

    It is never collected before it has ended: the garbage collector would unwind its coroutines,
    and run ``finally`` blocks that no killed process runs. Memory of the abandoned ones is freed by
    the end of the (real) process.

    Args:
        main: the main task.
        now: reads the clock of the run.
        shuffle: puts the tasks of each batch in order; they come sorted by their age.
        on_wake: called when ``TrioToken.run_sync_soon`` has made a task runnable.
        context: the context variables of all tasks.
        owner: says where it stands still.

    Raises:
        RuntimeError: a task of trio is running; a run starts from outside of all runs.
    """

    def __init__(
        self,
        main: Main,
        *,
        now: Callable[[], float],
        shuffle: Shuffle,
        on_wake: Callable[[], None],
        context: contextvars.Context,
        owner: Owner,
    ) -> None:
        if trio.lowlevel.in_trio_run():
            raise RuntimeError("a stepped run starts from outside of all runs of trio")
        self.task_name = ""
        #: How the run has ended: the exception of the main task, or None.
        self.error: BaseException | None = None
        self._clock = _Clock(now)
        wake_up = _WakeUp(on_wake)
        manager: Any = _NoDescriptors(shuffle, owner)
        socket_pair: Any = wake_up
        # The loop asks four times a step; trio's own class takes long to say that there are none.
        no_instruments: Any = {}
        self._runner = _run.Runner(
            clock=self._clock,
            instruments=no_instruments,
            io_manager=manager,
            ki_manager=KIManager(),
            strict_exception_groups=True,
            deadlines=_OrderedDeadlines(),
            system_context=context,
            entry_queue=_entry_queue.EntryQueue(wakeup=socket_pair),
        )
        wake_up.reschedule = self.reschedule
        # Tuples: the garbage collector does not see through what the call returns.
        self._outer_hooks = tuple(sys.get_asyncgen_hooks())
        self._runner.asyncgens.install_hooks(self._runner)
        self._hooks = tuple(sys.get_asyncgen_hooks())
        sys.set_asyncgen_hooks(*self._outer_hooks)
        self._loop = _LOOP(self._runner, main, (), host_uses_signal_set_wakeup_fd=True)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._loop))

    @property
    def runnable(self) -> bool:
        """Whether a task waits for the next pass."""
        return bool(self._runner.runq)

    @property
    def deadline(self) -> float:
        """The next deadline on the run's clock; as of the last pass, if no task was runnable."""
        return self._clock.deadline

    def reschedule(self, task: trio.lowlevel.Task) -> None:
        """Makes a task of this run runnable that waits in ``wait_task_rescheduled``."""
        self._runner.reschedule(task)

    def call(self, function: Callable[[], T]) -> T:
        """Calls a function that reads the run's clock or state, between or within its steps."""
        context = _run.GLOBAL_RUN_CONTEXT
        outer = getattr(context, "runner", None)
        context.runner = self._runner
        try:
            return function()
        finally:
            if outer is None:
                del context.runner
            else:
                context.runner = outer

    def step(self) -> Stop:
        """Goes on to where the owner has it stand still, or to its end.

        Raises:
            TrioInternalError: a bug of the simulator, or a crashed system task.
        """
        context = _run.GLOBAL_RUN_CONTEXT
        sys.set_asyncgen_hooks(*self._hooks)
        context.runner = self._runner
        try:
            task_name = self._loop.send(None)
        except StopIteration:
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(self._loop))
            self.error = getattr(self._runner.main_task_outcome, "error", None)
            return Stop.ENDED
        finally:
            context.__dict__.clear()
            sys.set_asyncgen_hooks(*self._outer_hooks)
        if task_name is None:
            return Stop.AFTER_PASS
        self.task_name = task_name
        return Stop.BEFORE_TASK
