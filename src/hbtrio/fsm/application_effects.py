"""The effects of an application's session, which the task of its connection carries out."""

from __future__ import annotations

import msgspec

from hbtrio.fsm.application_table import ApplicationEvent, ApplicationState
from hbtrio.policy.profile import Profile
from hbtrio.wire.app_messages import AppMessage, AppMoreTime
from hbtrio.wire.vocabulary import Event, VoteResult


class SendToApplication(msgspec.Struct, frozen=True):
    """Send this message to the application."""

    message: AppMessage


class Answered(msgspec.Struct, frozen=True):
    """Record the application's response to the open vote or notice."""

    result: VoteResult
    reason: str


class Withdrew(msgspec.Struct, frozen=True):
    """Stop waiting for the application's response: it no longer counts in that round."""


class AsksForTime(msgspec.Struct, frozen=True):
    """Pass on the application's request for more time in the open vote or notice."""

    request: AppMoreTime


class WithdrewReject(msgspec.Struct, frozen=True):
    """Tell the host that the application would not reject this event any more."""

    event: Event


class Ignored(msgspec.Struct, frozen=True):
    """Log that a message of the application was ignored, with the reason."""

    reason: str


class ApplicationStateChanged(msgspec.Struct, frozen=True):
    """Log the change of state."""

    old: ApplicationState
    new: ApplicationState
    event: ApplicationEvent


class StillIll(msgspec.Struct, frozen=True):
    """Log that the reason or the corrective action of an ill application changed."""


class RegistrationChanged(msgspec.Struct, frozen=True):
    """Log that the application registered again with other values."""

    old: Profile


class InhibitionChanged(msgspec.Struct, frozen=True):
    """Log the events that the application rejects from now on, and why."""


class RegistrationRefused(msgspec.Struct, frozen=True):
    """Log that an application that was not registered is refused; once for each interval."""


Effect = (
    SendToApplication
    | Answered
    | Withdrew
    | AsksForTime
    | WithdrewReject
    | Ignored
    | ApplicationStateChanged
    | StillIll
    | RegistrationChanged
    | RegistrationRefused
    | InhibitionChanged
)
