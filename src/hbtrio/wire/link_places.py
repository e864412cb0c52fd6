"""The messages of the link by which a host asks its agent before it acts by itself.

A host sends them only to an agent whose welcome has ``places``: one that has groups.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import attrs
import msgspec

from hbtrio.wire.vocabulary import Event

_Name = Annotated[str, msgspec.Meta(max_length=255)]


@attrs.frozen
class PlaceRequest:
    """Host: asks whether an event may happen to an instance, as far as the agent's groups go.

    Its place in them is taken with the answer, until a :class:`PlaceOver`, or until the host opens
    its next session: from then on the host says by ``acting`` what it does. ``number`` grows with
    each request.
    """

    TYPE: ClassVar[str] = "place_request"
    number: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    uuid: _Name
    event: Event


@attrs.frozen
class PlaceOver:
    """Host: what it asked about in this session has ended, or does not happen."""

    TYPE: ClassVar[str] = "place_over"
    uuid: _Name


@attrs.frozen
class PlaceAnswer:
    """Agent: the answer to a :class:`PlaceRequest`; ``denial`` is why not, "" if it may happen."""

    TYPE: ClassVar[str] = "place_answer"
    number: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    denial: Annotated[str, msgspec.Meta(max_length=2000)] = ""


#: What a host says of places.
OfPlace = PlaceRequest | PlaceOver
