"""Encodes the agent's requests to the VIM and decodes its audit responses: JSON bodies, no HTTP.

Every body has the layout and key order of the deployed agent (PROTOCOL.md, section 3), in ASCII
whatever a hostname holds. The VIM pastes a verdict's reason into JSON text without escaping it, so
this module applies :func:`vim_reason` to every reason.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote

import attrs
import msgspec

from hbtrio.wire.vocabulary import (
    EVENT_TABLE,
    CorrectiveAction,
    Event,
    ExpectedEffect,
    NotificationType,
    VoteResult,
)

#: Longer reasons are cut to this many characters; a guest's reason has at most 223.
MAX_REASON: Final = 255

_HOSTS: Final = "/nfvi-plugins/v1/hosts/"
_INSTANCES: Final = "/nfvi-plugins/v1/instances/"
_HEARTBEAT: Final = "heartbeat"


class Switch(StrEnum):
    """The reporting state of a host or instance, or an instance's heartbeating state."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class AlarmState(StrEnum):
    """The state of an instance in an alarm."""

    FAILED = "failed"
    UNHEALTHY = "unhealthy"


class GuestResponse(StrEnum):
    """A verdict in the VIM's terms: ALLOW or REJECT for a vote, PROCEED for a notice."""

    ALLOW = "allow"
    REJECT = "reject"
    PROCEED = "proceed"


@attrs.frozen
class VimRequest:
    """One request to the VIM, without the headers that all requests share.

    Args:
        method: GET or PATCH.
        target: the path with its query.
        body: the body, or b"".
    """

    method: str
    target: str
    body: bytes = b""


@attrs.frozen
class ServiceEvent:
    """The event that an instance started or stopped heartbeating.

    Args:
        uuid: the instance's uuid.
        hostname: the instance's host.
        state: whether losses of the instance are reported.
        status: whether the instance is heartbeating.
        restart_timeout_s: whole seconds; 0 if the instance is not heartbeating.
    """

    uuid: str
    hostname: str
    state: Switch
    status: Switch
    restart_timeout_s: int

    def body(self) -> str:
        """Returns the PATCH's JSON."""
        service = {
            "service": _HEARTBEAT,
            "state": self.state,
            "status": self.status,
            # A decimal string, and always present: otherwise the VIM's state machine raises
            # TypeError.
            "restart-timeout": str(self.restart_timeout_s),
        }
        return _instance_event(self.uuid, self.hostname, "service", service)


@attrs.frozen
class AlarmEvent:
    """The event that an instance is lost (``FAILED``) or ill, with its corrective action."""

    uuid: str
    hostname: str
    state: AlarmState
    repair_action: CorrectiveAction

    def body(self) -> str:
        """Returns the PATCH's JSON."""
        service = {
            "service": _HEARTBEAT,
            "state": self.state,
            "repair-action": self.repair_action,
        }
        return _instance_event(self.uuid, self.hostname, "alarm", service)


@attrs.frozen
class VerdictEvent:
    """The verdict of a vote or notice; ``action`` is the event in the VIM's request."""

    uuid: str
    action: Event
    response: GuestResponse
    reason: str

    @property
    def lets_act(self) -> bool:
        """Whether the VIM acts on the instance next: a PROCEED that is no end notice's."""
        returns = EVENT_TABLE[self.action].effect is ExpectedEffect.RETURNS
        return self.response is GuestResponse.PROCEED and not returns

    def body(self) -> str:
        """Returns the PATCH's JSON, with :func:`vim_reason` applied to the reason."""
        data = {
            "action": self.action,
            "guest-response": self.response,
            "reason": vim_reason(self.reason),
        }
        return _json({"uuid": self.uuid, "event-type": "action", "event-data": data})


def is_ill_health(body: str) -> bool:
    """Returns whether this is the body of an :class:`AlarmEvent` of ill health."""
    match _members(body):
        case {
            "event-type": "alarm",
            "event-data": {"services": [{"state": AlarmState.UNHEALTHY}]},
        }:
            return True
    return False


def lets_act(body: str) -> bool:
    """Returns whether this is a body of a :class:`VerdictEvent` after which the VIM acts."""
    match _members(body):
        case {
            "event-type": "action",
            "uuid": str(uuid),
            "event-data": {"action": action, "guest-response": response},
        } if action in tuple(EVENT_TABLE) and response in tuple(GuestResponse):
            return VerdictEvent(uuid, Event(action), GuestResponse(response), "").lets_act
    return False


def patch_instance(uuid: str, body: str) -> VimRequest:
    """Returns the request that delivers an event's body."""
    return VimRequest("PATCH", _INSTANCES + quote(uuid, safe=""), body.encode("ascii"))


def host_audit(uuid: str, hostname: str) -> VimRequest:
    """Returns the request for a host's reporting state: a GET with a body, as the VIM requires."""
    body = _json({"hostname": hostname, "uuid": uuid})
    return VimRequest("GET", _HOSTS + quote(uuid, safe=""), body.encode("ascii"))


def instances_audit(host_uuid: str) -> VimRequest:
    """Returns the request for a host's instances and their reporting states."""
    return VimRequest("GET", f"{_INSTANCES}?host_uuid={quote(host_uuid, safe='')}")


def guest_response(kind: NotificationType, result: VoteResult) -> GuestResponse:
    """Converts a verdict into the VIM's terms.

    Only the reject of a vote stops the VIM's action; silence and errors count as consent
    (PROTOCOL.md, section 0). A notice always gets PROCEED, whatever its result.
    """
    if kind is not NotificationType.REVOCABLE:
        return GuestResponse.PROCEED
    return GuestResponse.REJECT if result is VoteResult.REJECT else GuestResponse.ALLOW


def vim_reason(text: str) -> str:
    """Makes a text safe to paste between two quotes: printable ASCII on one line, cut to 255.

    A double quote becomes a single quote and a backslash a slash. A run of blanks and control
    characters becomes one blank. Any other non-ASCII character becomes a question mark.
    """
    plain = "".join(_plain(char) for char in text[: 4 * MAX_REASON])
    return " ".join(plain.split())[:MAX_REASON].rstrip()


def _plain(char: str) -> str:
    if char == '"':
        return "'"
    if char == "\\":
        return "/"
    if " " <= char <= "~":
        return char
    return " " if char.isspace() or char < " " or "\x7f" <= char < "\xa0" else "?"


# -- audit responses -------------------------------------------------------------------------------


class VimAnswerFault(Exception):
    """An audit response that can't be decoded; the text names the JSON path of the fault."""


@attrs.frozen
class HostAnswer:
    """A host's reporting state in the VIM."""

    uuid: str
    hostname: str
    state: Switch


@attrs.frozen
class InstanceAnswer:
    """An instance's reporting state in the VIM."""

    uuid: str
    hostname: str
    state: Switch


@attrs.frozen
class _Service:
    service: str
    # Not a Switch: another service in an unknown state must not make the response unusable.
    state: str


@attrs.frozen
class _Instance:
    uuid: str
    hostname: str
    services: tuple[_Service, ...]


@attrs.frozen
class _Instances:
    instances: tuple[_Instance, ...]


_HOST_DECODER: Final = msgspec.json.Decoder(HostAnswer)
_INSTANCES_DECODER: Final = msgspec.json.Decoder(_Instances)


def parse_host_answer(body: bytes) -> HostAnswer:
    """Decodes the response to :func:`host_audit`; the uuid is in lower case.

    Raises:
        VimAnswerFault: the body is not such a response.
    """
    answer: HostAnswer = _decode(_HOST_DECODER, body)
    return attrs.evolve(answer, uuid=answer.uuid.lower())


def parse_instances_answer(body: bytes) -> tuple[InstanceAnswer, ...]:
    """Decodes the response to :func:`instances_audit`, without instances that lack heartbeat.

    Raises:
        VimAnswerFault: the body is not such a response.
    """
    answer: _Instances = _decode(_INSTANCES_DECODER, body)
    found: list[InstanceAnswer] = []
    for place, instance in enumerate(answer.instances):
        for service in instance.services:
            if service.service == _HEARTBEAT:
                if service.state not in tuple(Switch):
                    raise VimAnswerFault(
                        f"state {service.state[:32]!r} of heartbeat - at `$.instances[{place}]`"
                    )
                state = Switch(service.state)
                found.append(InstanceAnswer(instance.uuid.lower(), instance.hostname, state))
                break
    return tuple(found)


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VimAnswerFault(str(error)) from error


def _instance_event(uuid: str, hostname: str, kind: str, service: dict[str, str]) -> str:
    return _json(
        {
            "uuid": uuid,
            "hostname": hostname,
            "event-type": kind,
            "event-data": {"services": [service]},
        }
    )


def _members(body: str) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _json(members: dict[str, Any]) -> str:
    return json.dumps(members, separators=(",", ":"))
