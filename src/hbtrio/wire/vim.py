"""What the agent says to the VIM and what the VIM's audits answer: JSON bodies, no HTTP.

Every body is printed exactly as the deployed agent's, compact and with its keys in that order
(PROTOCOL.md, section 3), in ASCII whatever a hostname holds. The VIM pastes a verdict's reason into
JSON text of its own, so :func:`vim_reason` is applied to each, here, where it can't be forgotten.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote

import attrs
import msgspec

from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType, VoteResult

#: A reason beyond this many characters is cut; a guest's own has at most 223.
MAX_REASON: Final = 255

_HOSTS: Final = "/nfvi-plugins/v1/hosts/"
_INSTANCES: Final = "/nfvi-plugins/v1/instances/"
_HEARTBEAT: Final = "heartbeat"


class Switch(StrEnum):
    """Reporting of a host or instance, or heartbeating of an instance."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class AlarmState(StrEnum):
    """What an alarm says of an instance."""

    FAILED = "failed"
    UNHEALTHY = "unhealthy"


class GuestResponse(StrEnum):
    """A verdict as the VIM knows it: two for a vote, one for a notice."""

    ALLOW = "allow"
    REJECT = "reject"
    PROCEED = "proceed"


@attrs.frozen
class VimRequest:
    """One request to the VIM, without the headers that are the same for all.

    Args:
        method: GET or PATCH.
        target: path with its query.
        body: b"" for none.
    """

    method: str
    target: str
    body: bytes = b""


@attrs.frozen
class ServiceEvent:
    """Heartbeating of an instance began or ended.

    Args:
        uuid: the instance.
        hostname: the host it is on.
        state: whether its losses are reported.
        status: whether it is heartbeating.
        restart_timeout_s: whole seconds; 0 when it is not heartbeating.
    """

    uuid: str
    hostname: str
    state: Switch
    status: Switch
    restart_timeout_s: int

    def body(self) -> str:
        """The PATCH's JSON."""
        service = {
            "service": _HEARTBEAT,
            "state": self.state,
            "status": self.status,
            # Text, and always there: without it, or with anything but an integer in it, the VIM's
            # state machine raises TypeError.
            "restart-timeout": str(self.restart_timeout_s),
        }
        return _instance_event(self.uuid, self.hostname, "service", service)


@attrs.frozen
class AlarmEvent:
    """An instance is lost (``FAILED``) or ill, and what its guest wants done about it."""

    uuid: str
    hostname: str
    state: AlarmState
    repair_action: CorrectiveAction

    def body(self) -> str:
        """The PATCH's JSON."""
        service = {
            "service": _HEARTBEAT,
            "state": self.state,
            "repair-action": self.repair_action,
        }
        return _instance_event(self.uuid, self.hostname, "alarm", service)


@attrs.frozen
class VerdictEvent:
    """The verdict of a vote or notice; ``action`` is the event exactly as the VIM named it."""

    uuid: str
    action: Event
    response: GuestResponse
    reason: str

    def body(self) -> str:
        """The PATCH's JSON; the reason is made digestible."""
        data = {
            "action": self.action,
            "guest-response": self.response,
            "reason": vim_reason(self.reason),
        }
        return _json({"uuid": self.uuid, "event-type": "action", "event-data": data})


def patch_instance(uuid: str, body: str) -> VimRequest:
    """The request that delivers an event's body."""
    return VimRequest("PATCH", _INSTANCES + quote(uuid, safe=""), body.encode("ascii"))


def host_audit(uuid: str, hostname: str) -> VimRequest:
    """Asks for a host's reporting state: a GET with a body, which the VIM wants to see."""
    body = _json({"hostname": hostname, "uuid": uuid})
    return VimRequest("GET", _HOSTS + quote(uuid, safe=""), body.encode("ascii"))


def instances_audit(host_uuid: str) -> VimRequest:
    """Asks for the instances of a host and their reporting states."""
    return VimRequest("GET", f"{_INSTANCES}?host_uuid={quote(host_uuid, safe='')}")


def guest_response(kind: NotificationType, result: VoteResult) -> GuestResponse:
    """A verdict in the VIM's words.

    Only a vote's reject stops what the VIM is about to do; silence and trouble are consent, as
    everywhere in the product. To a notice there is one answer, whatever became of it.
    """
    if kind is not NotificationType.REVOCABLE:
        return GuestResponse.PROCEED
    return GuestResponse.REJECT if result is VoteResult.REJECT else GuestResponse.ALLOW


def vim_reason(text: str) -> str:
    """``text`` as the VIM can paste it between two quotes: printable ASCII, one line.

    A double quote becomes a single one and a backslash a slash, blanks and control characters
    between words become one blank, and any other character a question mark.
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


# -- answers ---------------------------------------------------------------------------------------


class VimAnswerFault(Exception):
    """An audit's answer that can't be used; the text names the place in it."""


@attrs.frozen
class HostAnswer:
    """A host's reporting state as the VIM knows it."""

    uuid: str
    hostname: str
    state: Switch


@attrs.frozen
class InstanceAnswer:
    """An instance's reporting state as the VIM knows it."""

    uuid: str
    hostname: str
    state: Switch


@attrs.frozen
class _Service:
    service: str
    # Not a Switch: a service that is not ours may be in any state without costing the answer.
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
    """The answer to :func:`host_audit`; its uuid is in lower case.

    Raises:
        VimAnswerFault: it is none.
    """
    answer: HostAnswer = _decode(_HOST_DECODER, body)
    return attrs.evolve(answer, uuid=answer.uuid.lower())


def parse_instances_answer(body: bytes) -> tuple[InstanceAnswer, ...]:
    """The answer to :func:`instances_audit`, without instances that have no heartbeat service.

    Raises:
        VimAnswerFault: it is none.
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


def _json(members: dict[str, Any]) -> str:
    return json.dumps(members, separators=(",", ":"))
