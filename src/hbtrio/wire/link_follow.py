"""The message of the link that asks what became of an action whose session has ended."""

from __future__ import annotations

from typing import Annotated, ClassVar

import attrs
import msgspec

from hbtrio.wire.link_call_off import CallOff

_Name = Annotated[str, msgspec.Meta(max_length=255)]


@attrs.frozen
class Follow:
    """Agent: asks what became of the last action on an instance that ``who`` has had begun.

    ``action`` and ``who`` are those of its :class:`~hbtrio.wire.link_messages.ActCommand`;
    ``command_id`` is that command's, or of this question alone. The host answers as it does that
    command, from the first line that it has, and no longer under an earlier message of the same id;
    of an action that has ended, with the last line. It refuses if it does not know, and says that
    no such action was begun if it does. A host that has not read its store within ``deadline_s``
    does not answer. Sent only to a host whose hello has ``follows``.
    """

    TYPE: ClassVar[str] = "follow"
    command_id: _Name
    uuid: _Name
    action: _Name
    who: _Name
    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)]


#: What an agent says of an action that it has asked for before.
OfAction = CallOff | Follow
