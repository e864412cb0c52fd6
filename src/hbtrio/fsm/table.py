"""Holds the transition tables of the state machines.

A table gives, for every state and event, the next state or that the event is illegal in that state.
Building a :class:`Table` fails if a pair is missing or listed twice, so the import finds a state
that was added without its row.

An illegal pair raises :class:`IllegalEvent` before the machine changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)
C = TypeVar("C", bound=Enum)


class IllegalEvent(Exception):
    """The event is illegal in the current state: a programming error in the machine's driver."""

    def __init__(self, table: str, state: Enum, event: Enum) -> None:
        super().__init__(f"{table}: {event.name} is illegal in {state.name}")
        self.state = state
        self.event = event


class Table(Generic[S, E]):
    """A complete transition table.

    Args:
        name: the machine's name, for diagrams and errors.
        initial: the state in which the machine starts.
        rows: for each state, the next state for each legal event.
        illegal: for each state, the events that the driver must never deliver.
        events: the enum of all events.

    Raises:
        ValueError: a pair of state and event is in neither or both of ``rows`` and ``illegal``, or
            a state has no row.
    """

    def __init__(
        self,
        name: str,
        initial: S,
        rows: Mapping[S, Mapping[E, S]],
        illegal: Mapping[S, frozenset[E]],
        events: type[E],
    ) -> None:
        self.name = name
        self.initial = initial
        self.rows = rows
        self.illegal = illegal
        self.states: tuple[S, ...] = tuple(type(initial))
        self.events: tuple[E, ...] = tuple(events)
        for state in self.states:
            if state not in rows:
                raise ValueError(f"{name}: {state.name} has no row")
            for event in self.events:
                legal = event in rows[state]
                if legal == (event in illegal.get(state, frozenset())):
                    what = "both legal and illegal" if legal else "missing"
                    raise ValueError(f"{name}: {event.name} in {state.name} is {what}")

    def after(self, state: S, event: E) -> S:
        """Returns the next state.

        Raises:
            IllegalEvent: ``event`` is illegal in ``state``.
        """
        try:
            return self.rows[state][event]
        except KeyError:
            raise IllegalEvent(self.name, state, event) from None

    @property
    def terminal(self) -> tuple[S, ...]:
        """The states that no event leaves."""
        return tuple(s for s in self.states if all(t is s for t in self.rows[s].values()))


class Decision(Generic[S, C, E]):
    """A complete table of the event that a machine takes, by its state and by what it observed.

    It stands in front of a :class:`Table` where one observation means different things in
    different states.

    Args:
        name: what is decided, for diagrams and errors.
        table: the table of the machine; every event decided has to be legal there.
        rows: for each state that is not terminal, the event for each case.
        cases: what can be observed.

    Raises:
        ValueError: a pair of state and case is missing, or its event is illegal in that state.
    """

    def __init__(
        self,
        name: str,
        table: Table[S, E],
        rows: Mapping[S, Mapping[C, E]],
        cases: type[C],
    ) -> None:
        self.name = name
        self.table = table
        self.rows = rows
        self.states: tuple[S, ...] = tuple(
            state for state in table.states if state not in table.terminal
        )
        self.cases: tuple[C, ...] = tuple(cases)
        for state in self.states:
            for case in self.cases:
                event = rows.get(state, {}).get(case)
                if event is None:
                    raise ValueError(f"{name}: {case.name} in {state.name} is missing")
                if event not in table.rows[state]:
                    what = f"decides {event.name}, which is illegal there"
                    raise ValueError(f"{name}: {case.name} in {state.name} {what}")

    def event(self, state: S, case: C) -> E:
        """The event to take.

        Raises:
            KeyError: the state is terminal: nothing is observed there.
        """
        return self.rows[state][case]
