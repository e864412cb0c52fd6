"""Sends a request of the VIM to the agent, on a connection of its own, as the deployed VIM does."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import attrs
import h11
import trio

from hbtrio.errors import ExitStatus, UserError, os_reason

#: Time limit of one request, in seconds.
PATIENCE_S: Final = 10.0

#: Bytes of a body at most; an agent's bodies have a few hundred.
_BODY_BYTES: Final = 65_536

#: Headers of each request. The agent has to ignore the token, and never log it.
_HEADERS: Final = {
    "User-Agent": "vim/1.0",
    "X-Auth-Token": "a-token-of-the-lab",
    "Content-Type": "application/json",
    "Connection": "close",
}


@attrs.frozen
class VimReply:
    """The agent's reply: the status, and the members of the JSON body."""

    status: int
    members: dict[str, Any]


async def ask_agent(
    port: int,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    on_reply: Callable[[VimReply], None] | None = None,
    within_s: float = PATIENCE_S,
) -> VimReply:
    """Sends a request to a port on the loopback, see :func:`ask_over`."""
    return await ask_over(
        partial(trio.open_tcp_stream, "127.0.0.1", port),
        f"127.0.0.1:{port}",
        method,
        path,
        body,
        on_reply=on_reply,
        within_s=within_s,
    )


async def ask_over(
    connect: Callable[[], Awaitable[trio.abc.Stream]],
    host: str,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    on_reply: Callable[[VimReply], None] | None = None,
    within_s: float = PATIENCE_S,
) -> VimReply:
    """Sends a request; returns once the agent has closed the connection.

    The agent closes it after all work for the request, when it knows that its reply was written.

    Args:
        connect: connects to the agent; raises OSError.
        host: where the agent is, for the header.
        method: GET, POST, PUT, PATCH or DELETE.
        path: the path of the request.
        body: sent as JSON; None for no body.
        on_reply: called once the reply is complete, before the agent closes the connection.
        within_s: time limit in seconds.

    Raises:
        UserError: the agent can't be reached, or its answer is late or not HTTP.
    """
    asked = f"{method} {path}: "
    try:
        with trio.fail_after(within_s):
            async with await connect() as stream:
                connection = h11.Connection(h11.CLIENT)
                await stream.send_all(_request(connection, host, method, path, body))
                reply = await _reply(stream, connection)
                if on_reply is not None:
                    on_reply(reply)
                while await stream.receive_some(4096):
                    pass
                return reply
    except OSError as error:
        asked = ""  # an agent that is away answers none, and its line fits into 80 columns
        cause = error.__cause__  # trio may try several addresses
        first = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else error
        fault = os_reason(first) if isinstance(first, OSError) else str(first)
    except trio.BrokenResourceError:
        asked, fault = "", "the connection broke"
    except trio.TooSlowError:
        fault = f"no answer within {within_s:g} s"
    except (h11.ProtocolError, ValueError) as error:
        fault = f"invalid answer: {error}"
    raise UserError(f"the agent: {asked}{fault}", ExitStatus.UNREACHABLE)


def _request(
    connection: h11.Connection, host: str, method: str, path: str, body: dict[str, Any] | None
) -> bytes:
    content = b"" if body is None else json.dumps(body).encode("ascii")
    headers = {"Host": host, **_HEADERS, "Content-Length": str(len(content))}
    parts = [
        connection.send(h11.Request(method=method, target=path, headers=list(headers.items()))),
        connection.send(h11.Data(data=content)),
        connection.send(h11.EndOfMessage()),
    ]
    return b"".join(part for part in parts if part)


async def _reply(stream: trio.abc.ReceiveStream, connection: h11.Connection) -> VimReply:
    status, content = 0, bytearray()
    while len(content) <= _BODY_BYTES:
        match connection.next_event():
            case h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(4096)))
            case h11.Response(status_code=status):
                pass
            case h11.Data(data=data):
                content += data
            case h11.EndOfMessage():
                members = json.loads(content) if content else {}
                if not isinstance(members, dict):
                    raise ValueError("the body is no object")
                return VimReply(status, members)
            case event:
                raise ValueError(f"{type(event).__name__} instead of a reply")
    raise ValueError(f"a body of over {_BODY_BYTES} bytes")
