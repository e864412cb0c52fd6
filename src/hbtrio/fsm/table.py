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
