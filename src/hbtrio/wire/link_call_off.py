"""The message of the link that ends an action before its command."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import attrs
import msgspec

#: The most characters of a reason: the host's progress line repeats it whole, so that the agent
#: knows its own words again.
MAX_REASON: Final = 500


@attrs.frozen
class CallOff:
    """Agent: end an action of this session before its command begins, for this reason.

    ``command_id`` is that of its :class:`~hbtrio.wire.link_messages.ActCommand`. A vote or notice
    that is open comes to its end first; an instance that was told gets the notice that ends what
    does not come. The action's last line then has the reason. An action whose command has begun
    goes on, and one that has ended is none. Sent only to a host whose hello has ``call_offs``.
    """

    TYPE: ClassVar[str] = "call_off"
    command_id: Annotated[str, msgspec.Meta(max_length=255)]
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON)]
