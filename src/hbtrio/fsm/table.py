"""Transition tables as data.

A machine's table says, for every state and every event, which state follows, or that the event is
illegal there. Nothing is left open: :class:`Table` refuses to be built with a pair missing or
given twice, so a state added without its row is found by the import, not by a customer.

The lookup is one subscript per dimension; a pair that is illegal raises :class:`IllegalEvent`
before the machine has touched anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class IllegalEvent(Exception):
    """An event came in a state that has no place for it: a programming error in the driver."""

    def __init__(self, table: str, state: Enum, event: Enum) -> None:
        super().__init__(f"{table}: {event.name} is illegal in {state.name}")
        self.state = state
        self.event = event


class Table(Generic[S, E]):
    """A complete transition table.

    Args:
        name: what the machine is, for diagrams and errors.
        initial: the state it starts in.
        rows: for each state, the state that follows each legal event.
        illegal: for each state, the events that its driver must never deliver.

    Raises:
        ValueError: a pair of state and event stands in neither or in both, or a state has no row.
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
        """The state that follows.

        Raises:
            IllegalEvent: the pair is illegal.
        """
        try:
            return self.rows[state][event]
        except KeyError:
            raise IllegalEvent(self.name, state, event) from None

    @property
    def terminal(self) -> tuple[S, ...]:
        """States that no event leaves."""
        return tuple(s for s in self.states if all(t is s for t in self.rows[s].values()))
