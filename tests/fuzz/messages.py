"""What must hold for the messages of channel, applications, link, VIM, operators and libvirt."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from fuzz.draw import Draw
from hbtrio.api.common import act_request, alarms_request, round_request
from hbtrio.api.vim_bodies import (
    AskBody,
    BodyFault,
    ChangedInstance,
    HostBody,
    NewInstance,
    parse_body,
)
from hbtrio.wire import app_codec, app_status, channel_codec, operator, vim, virsh, vocabulary
from hbtrio.wire.app_messages import AppMessage
from hbtrio.wire.channel_messages import MESSAGE_CLASSES, Int32, Message
from hbtrio.wire.lines import MAX_LINE_BYTES, LineReader
from hbtrio.wire.link_codec import (
    MAX_LINK_LINE,
    LinkError,
    decode_from_agent,
    decode_from_host,
    encode_link,
)

# -- the channel -----------------------------------------------------------------------------------


def _as_sent(message: Message) -> Message:
    """The message as its peer gets it: names and reasons are made plain and cut."""
    return msgspec.structs.replace(
        message,
        **{
            name: channel_codec.plain_text(getattr(message, name), limit)
            for name, limit in channel_codec.TEXT_BYTES.items()
            if hasattr(message, name)
        },
    )


def _comes_back(message: Message, sequence: int) -> None:
    data = channel_codec.encode(message, sequence)
    assert len(data) <= channel_codec.MAX_MESSAGE_BYTES, len(data)
    assert LineReader().feed(data) == [data.strip(b"\n")]
    assert channel_codec.decode(data.strip(b"\n")) == _as_sent(message)


def channel_line(data: bytes) -> None:
    """A line raises a MessageError, or is a message that comes back once sent."""
    try:
        message = channel_codec.decode(data)
    except channel_codec.MessageError as error:
        assert -(2**31) <= error.invocation_id < 2**32
        assert len(error.msg_type) <= 32
        # A host answers with the text, and a guest has to be able to read that.
        error.text.encode()
        return
    _comes_back(message, 1)
    # The blank keeps the line from the fast path.
    assert channel_codec.decode(b" " + data) == message


def channel_message(data: bytes) -> None:
    """Any message comes back, whatever its texts and numbers."""
    draw = Draw(data)
    cls = draw.one_of(MESSAGE_CLASSES)
    values: list[Any] = []
    for field in msgspec.structs.fields(cls):
        if field.type == Int32:
            values.append(draw.number(-(2**31), 2**32 - 1))
        elif field.type is str:
            values.append(draw.text())
        else:
            values.append(draw.one_of(tuple(field.type)))
    _comes_back(cls(*values), draw.number(-5, 2**40))


def lines(data: bytes) -> None:
    """Lines are the same in whatever pieces they come, and memory is bounded."""
    pieces = Draw(data).pieces()
    reader, found = LineReader(), []
    for piece in pieces:
        found += reader.feed(piece)
        assert reader.held_bytes <= MAX_LINE_BYTES
    whole = b"".join(pieces)
    parts = whole.split(b"\n")
    assert found == [part for part in parts[:-1] if 0 < len(part) <= MAX_LINE_BYTES]
    assert reader.skipped == sum(len(part) > MAX_LINE_BYTES for part in parts)


# -- applications ----------------------------------------------------------------------------------


def _clipped(message: AppMessage) -> AppMessage:
    limits = {"name": app_codec.MAX_APP_NAME_BYTES, "log_msg": app_codec.MAX_APP_LOG_BYTES}
    return msgspec.structs.replace(
        message,
        **{
            name: channel_codec.clip_utf8(getattr(message, name), limit)
            for name, limit in limits.items()
            if hasattr(message, name)
        },
    )


def applications(data: bytes) -> None:
    """A stream never raises, is the same in any pieces, and its messages come back once sent."""
    pieces = Draw(data).pieces()
    decoder, found = app_codec.AppDecoder(), []
    for piece in pieces:
        found += decoder.feed(piece)
        assert decoder.held_bytes < app_codec.MESSAGE_BYTES
    whole = app_codec.AppDecoder()
    assert whole.feed(b"".join(pieces)) == found
    for count in ("garbage_bytes", "other_types", "other_versions", "held_bytes"):
        assert getattr(whole, count) == getattr(decoder, count)
    for message in found:
        again = app_codec.AppDecoder().feed(app_codec.encode(message, 1))
        assert again == [_clipped(message)]


# -- the link --------------------------------------------------------------------------------------


def _link(data: bytes, decode: Callable[[bytes], Any]) -> None:
    try:
        message = decode(data)
    except LinkError:
        return
    try:
        line = encode_link(message)
    except LinkError:
        # Characters that were escapes may be longer in UTF-8, and defaults are written out.
        assert len(data) > MAX_LINK_LINE // 4
        return
    assert line.count(b"\n") == 1
    assert decode(line[:-1]) == message


def link_from_host(data: bytes) -> None:
    """A host's line raises a LinkError, or is a message that comes back once sent."""
    _link(data, decode_from_host)


def link_from_agent(data: bytes) -> None:
    """An agent's line raises a LinkError, or is a message that comes back once sent."""
    _link(data, decode_from_agent)


# -- operators -------------------------------------------------------------------------------------

_REPLIES: Final[tuple[type[msgspec.Struct], ...]] = (
    operator.ProgressLine,
    operator.History,
    operator.WholeHistory,
    operator.ClockReply,
    operator.Forgotten,
    operator.Refusal,
    operator.AlarmsReply,
)


def _printed(data: bytes) -> None:
    assert data.decode().isprintable(), data


def operator_replies(data: bytes) -> None:
    """A daemon's answer raises a ReplyFault, or comes back; encoded, it is fit for a terminal."""
    readers: list[Callable[[bytes], Any]] = [operator.parse_status, operator.parse_event]
    readers += [lambda raw, cls=cls: operator.parse(raw, cls) for cls in _REPLIES]  # type: ignore[misc]
    for read in readers:
        try:
            value = read(data)
        except operator.ReplyFault as fault:
            assert str(fault).isprintable()
            continue
        body = operator.encode(value)
        _printed(body)
        assert operator.parse(body, type(value)) == value
        assert operator.parse(operator.encode_line(value), type(value)) == value


def application_lists(data: bytes) -> None:
    """What a guest daemon lists raises a StatusError, or comes back."""
    try:
        status = app_status.decode_status(data)
    except app_status.StatusError:
        return
    assert app_status.decode_status(app_status.encode_status(status)) == status


def operator_requests(data: bytes) -> None:
    """A request's body raises HTTP's 400 of one line, or names what is known."""
    for read in (
        lambda request: round_request(request, vocabulary.NotificationType.REVOCABLE),
        act_request,
        alarms_request,
    ):
        try:
            _result_of(read(_request(data)))
        except HTTPException as error:
            assert error.status_code == 400
            assert error.detail.isprintable(), error.detail


def _request(body: bytes) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def _result_of(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a call that never waits."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


# -- the VIM ---------------------------------------------------------------------------------------

VIM_UUID: Final = "8d2f3c9a-0000-4000-8000-000000000001"


def vim_bodies(data: bytes) -> None:
    """A request's body raises a BodyFault of one line, or names its instance and host."""
    for cls in (HostBody, NewInstance, ChangedInstance, AskBody):
        try:
            body = parse_body(data, cls, VIM_UUID)
        except BodyFault as fault:
            assert str(fault).isprintable()
        else:
            assert body.uuid.lower() == VIM_UUID
            assert body.hostname.isascii()


def vim_answers(data: bytes) -> None:
    """An audit's answer raises a VimAnswerFault, or is read."""
    for read in (vim.parse_host_answer, vim.parse_instances_answer):
        try:
            read(data)
        except vim.VimAnswerFault:
            continue


def vim_reasons(data: bytes) -> None:
    """Any reason can be pasted between two quotes."""
    text = Draw(data[:1] + data).text() + data.decode("utf-8", "replace")
    reason = vim.vim_reason(text)
    assert json.loads(f'"{reason}"') == reason
    assert reason.isascii()
    assert len(reason) <= vim.MAX_REASON
    assert vim.vim_reason(reason) == reason


# -- libvirt ---------------------------------------------------------------------------------------


def virsh_domains(data: bytes) -> None:
    """Any text is read, or is no answer."""
    for uuid, row in (virsh.read_domains(data.decode("utf-8", "replace")) or {}).items():
        assert row.uuid == uuid
        assert "\n" not in row.name
        assert row.domain_id >= -1


def virsh_events(data: bytes) -> None:
    """Any line is a hint, or is none."""
    virsh.read_event(data.decode("utf-8", "replace"))


def virsh_channels(data: bytes) -> None:
    """Any text has channels, or none; their paths are absolute."""
    for xml in virsh.read_live_xml(data.decode("utf-8", "replace")).values():
        assert all(path.startswith("/") for path in xml.sockets)
        assert not (xml.fault and xml.metadata)
