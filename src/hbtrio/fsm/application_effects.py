"""The effects of an application's session, which the task of its connection carries out."""

from __future__ import annotations

import attrs

from hbtrio.fsm.application_table import ApplicationEvent, ApplicationState
from hbtrio.policy.profile import Profile
from hbtrio.wire.app_messages import AppMessage, AppMoreTime
from hbtrio.wire.vocabulary import Event, VoteResult


@attrs.frozen
class SendToApplication:
    """Send this message to the application."""

    message: AppMessage


@attrs.frozen
class Answered:
    """Record the application's response to the open vote or notice."""

    result: VoteResult
    reason: str


@attrs.frozen
class Withdrew:
    """Stop waiting for the application's response: it no longer counts in that round."""


@attrs.frozen
class AsksForTime:
    """Pass on the application's request for more time in the open vote or notice."""

    request: AppMoreTime


@attrs.frozen
class WithdrewReject:
    """Tell the host that the application would not reject this event any more."""

    event: Event


@attrs.frozen
class Ignored:
    """Log that a message of the application was ignored, with the reason."""

    reason: str


@attrs.frozen
class ApplicationStateChanged:
    """Log the change of state."""

    old: ApplicationState
    new: ApplicationState
    event: ApplicationEvent


@attrs.frozen
class StillIll:
    """Log that the reason or the corrective action of an ill application changed."""


@attrs.frozen
class RegistrationChanged:
    """Log that the application registered again with other values."""

    old: Profile


@attrs.frozen
class InhibitionChanged:
    """Log the events that the application rejects from now on, and why."""


@attrs.frozen
class RegistrationRefused:
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
