"""Decides how much longer a vote or notice stays open, because a voter asks for more time.

The host decides: :class:`Extensions` grants what the host's settings allow for one window, in all
and not for each request. The guest asks for several voters at once: :class:`VoterTime` sends the
host one request at a time, for no more than what is missing. So two voters that each ask for 30 s
at the same moment have 30 s more, and not 60.

The guest lengthens its window by what was granted when it reads the answer, the host when it reads
the request: the host's window never ends before the guest's.
"""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec

#: The most seconds that may be asked for at a time.
MOST_S: Final = 86_400

#: Requests of one window that a host grants, and that a guest sends: each is a line of the history.
REQUESTS: Final = 32

#: Requests of one voter or several that wait for the host at a time.
WAITING: Final = 64

#: Names of voters that are shown of one window.
_NAMES: Final = 3

#: How :attr:`Extension.words` begins; the name of a voter follows.
_WORDS: Final = re.compile(r"\bextended by (\d{1,6}) s\b", re.ASCII)

#: Why no more time is given.
OFF: Final = "the host gives no more time"
FOR_THE_VIM: Final = "the VIM asks, whose timers can't be extended"
FOR_AN_AGENT: Final = "the agent asks, which waits no longer"
NOT_OPEN: Final = "no vote or notice with this id is open"
TOO_MANY: Final = "too many requests for more time"
NOT_A_TIME: Final = f"not a number of seconds from 1 to {MOST_S}"


class Grant(msgspec.Struct, frozen=True):
    """What was granted, in seconds; ``reason`` says why it is less than was asked for."""

    seconds: float
    reason: str = ""


class Extension(msgspec.Struct, frozen=True):
    """A window that was extended by ``seconds`` for the voter ``name``, which may be empty."""

    seconds: int
    name: str

    @property
    def words(self) -> str:
        """For operators: ``extended by 30 s by orders``."""
        by = f" by {self.name}" if self.name else ""
        return f"extended by {self.seconds} s{by}"


def seconds_of(words: str) -> int:
    """Returns the seconds of the first :attr:`Extension.words` in a text; 0 without any."""
    found = _WORDS.search(words)
    return min(int(found[1]), MOST_S) if found else 0


class Extensions:
    """What the host grants for one window.

    Args:
        most_s: how much it may be extended by in all, in seconds; 0: not at all.
        refusal: why it can't be extended, whatever ``most_s`` is; empty if it can.
    """

    def __init__(self, most_s: int = 0, refusal: str = "") -> None:
        #: The extensions so far, at most ``REQUESTS``.
        self.granted: list[Extension] = []
        self._left_s = 0 if refusal else most_s
        self._refusal = refusal or ("" if most_s else OFF)
        self._most_s = most_s

    @property
    def possible(self) -> bool:
        """Whether a request could be granted now."""
        return self._left_s > 0 and len(self.granted) < REQUESTS

    @property
    def words(self) -> str:
        """Who has extended the window so far, and by how much; empty: nobody."""
        if not self.granted:
            return ""
        names = tuple(dict.fromkeys(one.name for one in self.granted if one.name))
        shown, more = ", ".join(names[:_NAMES]), len(names) - _NAMES
        by = f"{shown} and {more} more" if more > 0 else shown
        return Extension(sum(one.seconds for one in self.granted), by).words

    def ask(self, seconds: int, name: str) -> Grant:
        """Takes a request of the guest for ``seconds``, any number; returns what is granted."""
        if self._refusal:
            return Grant(0, self._refusal)
        if not 1 <= seconds <= MOST_S:
            return Grant(0, NOT_A_TIME)
        if len(self.granted) >= REQUESTS:
            return Grant(0, TOO_MANY)
        granted = min(seconds, self._left_s)
        self._left_s -= granted
        if granted:
            self.granted.append(Extension(granted, name))
        limit = f"the limit is {self._most_s} s in all"
        return Grant(granted, "" if granted == seconds else limit)


class AskHost(msgspec.Struct, frozen=True):
    """Send the host this request."""

    number: int
    seconds: int
    name: str


class Lengthen(msgspec.Struct, frozen=True):
    """Keep the guest's window open for so many seconds more."""

    seconds: int


class AnswerVoter(msgspec.Struct, frozen=True):
    """Tell the voter that has asked under this key what it was granted."""

    key: int
    grant: Grant


Effect = AskHost | Lengthen | AnswerVoter


class _Waiting(msgspec.Struct, frozen=True):
    """A voter that waits: its end when it asked, and the end that it wants."""

    key: int
    name: str
    from_: float
    until: float


class VoterTime:
    """What the guest asks the host for during one window, and what it grants its voters.

    Args:
        offered: whether the host takes such requests.
    """

    def __init__(self, *, offered: bool) -> None:
        #: Why the host is not asked; empty if it is.
        self._refusal = "" if offered else OFF
        self._waiting: list[_Waiting] = []
        self._sent = 0
        #: The request that the host has not answered; None: there is none.
        self._open: AskHost | None = None

    @property
    def awaits_host(self) -> bool:
        """Whether the host's answer to a request is missing."""
        return self._open is not None

    def ask(
        self, key: int, name: str, seconds: int, own_end: float, window_end: float
    ) -> list[Effect]:
        """Takes the request of a voter.

        Args:
            key: identifies the request, for its answer.
            name: the voter.
            seconds: what it asks for, any number.
            own_end: when the voter's own time ends, at most ``window_end``.
            window_end: when the window ends, on the same clock.
        """
        if self._refusal:
            return [AnswerVoter(key, Grant(0, self._refusal))]
        if not 1 <= seconds <= MOST_S:
            return [AnswerVoter(key, Grant(0, NOT_A_TIME))]
        if len(self._waiting) >= WAITING:
            return [AnswerVoter(key, Grant(0, TOO_MANY))]
        self._waiting.append(_Waiting(key, name, own_end, own_end + seconds))
        return self._go_on(window_end)

    def answered(self, number: int, seconds: int, reason: str, window_end: float) -> list[Effect]:
        """Takes the host's answer; one to no open request has no effect.

        Args:
            number: the request.
            seconds: what the host grants, any number.
            reason: why it is less than was asked for.
            window_end: when the window ends so far.
        """
        request = self._open
        if request is None or number != request.number:
            return []
        self._open = None
        granted = min(max(seconds, 0), request.seconds)
        asked_until, end = window_end + request.seconds, window_end + granted
        effects: list[Effect] = [Lengthen(granted)] if granted else []
        if granted < request.seconds:
            # Those whom the request was for get what there is, and ask no more.
            tried = [one for one in self._waiting if end < one.until <= asked_until]
            for one in tried:
                self._waiting.remove(one)
                part_s = max(0.0, end - one.from_) if granted else 0.0
                effects.append(AnswerVoter(one.key, Grant(part_s, reason)))
        return effects + self._go_on(end)

    def refused(self, reason: str) -> list[Effect]:
        """Takes that the host answers no such requests: from now on it gets none."""
        self._refusal, self._open = reason, None
        waiting, self._waiting = self._waiting, []
        return [AnswerVoter(one.key, Grant(0, reason)) for one in waiting]

    def _go_on(self, window_end: float) -> list[Effect]:
        effects: list[Effect] = []
        for one in [one for one in self._waiting if one.until <= window_end]:
            self._waiting.remove(one)
            effects.append(AnswerVoter(one.key, Grant(one.until - one.from_)))
        if self._waiting and self._open is None:
            if self._sent >= REQUESTS:
                return effects + self.refused(TOO_MANY)
            last = max(self._waiting, key=lambda one: one.until)
            self._sent += 1
            missing = math.ceil(round(last.until - window_end, 6))
            self._open = AskHost(self._sent, missing, last.name)
            effects.append(self._open)
        return effects
