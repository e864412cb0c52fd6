"""Simulates an operating system's process: started, stopped, continued and killed."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import sniffio
import trio

from hbtrio.simulate.held import Held
from hbtrio.simulate.machine import Machine
from hbtrio.simulate.timeline import Costs, Entry, Timeline
from hbtrio.simulate.trace import Trace
from hbtrio.simulate.trio_internals import Main, SteppedRun, Stop

T = TypeVar("T")

#: The process that a task belongs to.
CURRENT: Final[contextvars.ContextVar[Process]] = contextvars.ContextVar("process")


class Process:
    """A run of trio below the timeline.

    What happens outside happens through :meth:`effect`, and what it waits for outside wakes it by
    :class:`Waiters`. A process that is frozen takes no step, but its kernel goes on: what arrives
    stays in its buffers, and deadlines pass. The first pass after the thaw sees all of it at once.

    A process is started once; a restart is a new process on the same disk.

    Args:
        machine: has its clocks.
        timeline: plans its steps.
        trace: records its steps and its life.
        name: unique in the simulation, as its random streams are named after it.
    """

    def __init__(self, machine: Machine, timeline: Timeline, trace: Trace, name: str) -> None:
        self.machine = machine
        self.timeline = timeline
        self.trace = trace
        self.name = name
        #: Called once, when it is killed or ends.
        self.at_death: list[Callable[[], object]] = []
        #: Called whenever it stands still, and whenever it goes on.
        self.at_freeze: list[Callable[[], object]] = []
        self.at_thaw: list[Callable[[], object]] = []
        #: What its kernel releases at its death.
        self.held: dict[Held, None] = {}
        #: What it still had when it ended by itself.
        self.left: tuple[Held, ...] = ()
        #: The exception that has ended it; None while it lives, after a kill and a regular end.
        self.error: BaseException | None = None
        #: Task steps and effects so far.
        self.steps = 0
        self.effects = 0
        self._costs = Costs(timeline.random(f"costs of {name}"))
        self._shuffle = timeline.random(f"tasks of {name}").shuffle
        #: Whether it was started and has neither ended nor been killed; read only.
        self.alive = False
        self._run: SteppedRun | None = None
        self._over = False
        #: Why it is frozen, with the time until which, if it was told for how long.
        self._frozen: dict[str, float | None] = {}
        self._after_thaw: list[Callable[[], object]] = []
        self._planned: Entry | None = None
        #: Where it stands still, or what it does next: the first task step of a pass.
        self._before_task = False
        self._pass_begins = False
        self._at_step: dict[int, Callable[[], object]] = {}
        self._at_effect: dict[int, Callable[[], object]] = {}

    # -- its life ----------------------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return bool(self._frozen)

    def start(self, main: Main) -> None:
        """Starts it; its first step comes a little later.

        Raises:
            RuntimeError: it was started before, or another process is being stepped.
        """
        if self._run is not None:
            raise RuntimeError(f"{self.name} was started before")
        context = contextvars.Context()
        context.run(CURRENT.set, self)
        # Libraries on anyio ask for it: trio.run() would have told them.
        context.run(sniffio.current_async_library_cvar.set, "trio")
        self._run = SteppedRun(
            main,
            now=self.machine.monotonic,
            shuffle=self._shuffle,
            on_wake=self._poke,
            context=context,
            owner=self,
        )
        self.alive = True
        self.trace.event(self.name, "started")
        self.machine.processes.append(self)
        if self.machine.paused:
            self.freeze("pause")
        self._poke()

    def freeze(self, why: str = "SIGSTOP") -> None:
        """Stops it; a step that is being taken still ends, with all its effects.

        Args:
            why: the reason; it goes on when all of them are gone.
        """
        if self.alive and why not in self._frozen:
            self.trace.event(self.name, "frozen", why)
            if not self._frozen:
                for action in self.at_freeze:
                    action()
            self._frozen[why] = None
            self._plan(None)

    def freeze_for(self, seconds: float, why: str = "SIGSTOP") -> None:
        """Stops it for a time; if that overlaps another for the same reason, the later end counts.

        Without effect if it is frozen for this reason until told otherwise.
        """
        until = self.timeline.now + seconds
        if self.alive and self._frozen.get(why, until) is not None:
            self.freeze(why)
            self._frozen[why] = max(until, self._frozen[why] or until)
            self.timeline.at(until, partial(self._thaw_when_due, why))

    def thaw(self, why: str = "SIGSTOP") -> None:
        """Lets it go on, unless there is another reason to stand still."""
        if why in self._frozen and self.alive:
            del self._frozen[why]
            self.trace.event(self.name, "thawed", why)
            if not self._frozen:
                self._poke()
                actions, self._after_thaw = self._after_thaw, []
                for action in [*self.at_thaw, *actions]:
                    action()

    def _thaw_when_due(self, why: str) -> None:
        until = self._frozen.get(why)
        if until is not None and until <= self.timeline.now:
            self.thaw(why)

    def when_running(self, action: Callable[[], object]) -> None:
        """Calls an action of one of its threads: at once, or at the thaw; never if it is dead."""
        if self._frozen:
            self._after_thaw.append(action)
        elif self.alive:
            action()

    def kill(self) -> None:
        """Kills it (KILL): it never takes another step, and nothing is unwound.

        A step that is being taken goes on to its end, but has no effects any more.
        """
        if self.alive:
            self.trace.event(self.name, "killed")
            self._end()

    def _end(self) -> None:
        self._over = True
        self.alive = False
        self._plan(None)
        self.machine.processes.remove(self)
        held, self.held = self.held, {}
        for each in held:
            each.released()
        for callback in self.at_death:
            callback()

    def hold(self, held: Held) -> None:
        """Gives it something that its kernel releases when it dies, such as a connection."""
        self.held[held] = None

    def drop(self, held: Held) -> None:
        """Takes something from it that it has released itself; does nothing if it is dead."""
        self.held.pop(held, None)

    # -- faults at a step or an effect -------------------------------------------------------------

    def effect(self) -> bool:
        """Asks before each effect on the outside whether it happens.

        Returns:
            False if the process is dead, or was killed because of this effect.
        """
        if not self.alive:
            return False
        self.effects += 1
        if (action := self._at_effect.pop(self.effects, None)) is not None:
            action()
        return not self._over

    def at_effect(self, number: int, action: Callable[[], object]) -> None:
        """Plans an action right before an effect, such as to kill or to freeze the process.

        Args:
            number: which of the coming effects, from 1.
            action: runs within the process's step. If it freezes the process, the effect happens.
        """
        _count("effect", number)
        self._at_effect[self.effects + number] = action

    def at_step(self, number: int, action: Callable[[], object]) -> None:
        """Plans an action right before a task step, which is not taken if it kills or freezes.

        Args:
            number: which of the coming task steps, from 1.
            action: must not step a process.
        """
        _count("step", number)
        self._at_step[self.steps + number] = action

    def call(self, function: Callable[[], T]) -> T:
        """Calls a function of one of its tasks that only looks, also while it is frozen.

        Raises:
            RuntimeError: it was not started.
        """
        if self._run is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._run.call(function)

    # -- its steps ---------------------------------------------------------------------------------

    def wake(self, task: trio.lowlevel.Task) -> None:
        """Makes one of its tasks runnable; nothing happens if the process is dead."""
        if self.alive:
            assert self._run is not None
            self._run.reschedule(task)
            self._poke()

    def _poke(self) -> None:
        """Plans a step soon, since something was made runnable."""
        self._plan(self.timeline.now + self._costs.wake_s())

    def _plan(self, time: float | None) -> None:
        """Plans the next step, unless an earlier one is planned; None: no step."""
        planned = self._planned
        if planned is not None:
            if time is not None and planned.time <= time:
                return
            planned.cancel()
            self._planned = None
        if time is not None and time < math.inf and not self._over and not self._frozen:
            self._planned = self.timeline.at(time, self._step)

    def _step(self) -> None:
        """Takes task steps until something else happens in between."""
        run = self._run
        assert run is not None
        self._planned = None
        if self._before_task and not self._takes(run.task_name):
            return
        stop = run.step()
        self._before_task = stop is Stop.BEFORE_TASK
        if stop is Stop.ENDED and not self._over:
            self.error = run.error
            self.left = tuple(self.held)
            self.trace.event(self.name, "ended", error=type(run.error).__name__)
            self._end()

    def pauses_before(self, task_name: str) -> bool:
        """Plans a task step of the pass, the first one for now; see :class:`Owner`."""
        if self._pass_begins:
            self._pass_begins = False
        elif self._over or not self._advances(self.timeline.now + self._costs.task_step_s()):
            return True
        return not self._takes(task_name)

    def pauses_after_pass(self) -> bool:
        """Plans the next pass: soon, at the next deadline, or not at all; see :class:`Owner`."""
        if self._over:
            return True
        self._pass_begins = True
        run = self._run
        assert run is not None
        if run.runnable:
            return not self._advances(self.timeline.now + self._costs.pass_s())
        at = self.machine.when(run.deadline)
        return at == math.inf or not self._advances(at)

    def _advances(self, time: float) -> bool:
        """Goes on to the time of the next step at once, or plans it."""
        # What it has woken itself by is planned already.
        if self._frozen or self._planned is not None or not self.timeline.advance(time):
            self._plan(time)
            return False
        return True

    def _takes(self, task_name: str) -> bool:
        """Takes a task step, unless that is where it is killed or frozen."""
        if self._at_step and not self._may_step():
            return False
        self.steps += 1
        self.trace.step(self.name, task_name)
        return True

    def _may_step(self) -> bool:
        action = self._at_step.pop(self.steps + 1, None)
        if action is not None:
            action()
        return not self._over and not self._frozen


class Waiters:
    """Where tasks of one process wait for its kernel.

    Args:
        process: whose tasks.
    """

    __slots__ = ("_process", "_tasks")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._tasks: list[trio.lowlevel.Task] = []

    async def wait(self) -> None:
        """Waits for the next :meth:`wake`; can be cancelled."""
        task = trio.lowlevel.current_task()
        self._tasks.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._tasks.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Wakes all tasks that wait."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            self._process.wake(task)


def _count(what: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"no {what} number {number}: they are counted from 1")
