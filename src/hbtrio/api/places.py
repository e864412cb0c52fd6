"""The places of requests at the APIs of host and agent: which requests share them.

Votes, notices and actions are answered with a stream until they end, which takes up to an hour, and
streams of events have no end. So these have places of their own, and never keep a status, a release
or each other out. A request that is permitted to make changes displaces one that is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.datastructures import QueryParams
from starlette.types import Scope

from hbtrio.http.server import Place, RequestClasses

#: Methods that change nothing.
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_ROUNDS: Final = "votes and notices"
_ACTIONS: Final = "actions"
_STREAMS: Final = "streams of events"
_CHANGES: Final = "changes"
_READS: Final = "queries"

#: More votes than one host has to answer at once, and more actions than a host or an agent begins,
#: which refuses one more with a reason of its own.
_SIZES: Final = {_ROUNDS: 1024, _ACTIONS: 1024, _STREAMS: 64, _CHANGES: 64, _READS: 64}

_LAST_WORDS: Final = {"vote": _ROUNDS, "notify": _ROUNDS, "act": _ACTIONS}


def request_classes(is_preferred: Callable[[Scope], bool]) -> RequestClasses:
    """The classes of an API.

    Args:
        is_preferred: whether a request, given its ASGI scope, may displace one that is not
            preferred.
    """
    return RequestClasses(
        _SIZES, lambda scope: Place(_kind_of(scope), preferred=is_preferred(scope))
    )


def _kind_of(scope: Scope) -> str:
    path: str = scope["path"]
    if scope["method"] not in SAFE_METHODS:
        return _LAST_WORDS.get(path.rpartition("/")[2], _CHANGES)
    if path == "/v1/events" and QueryParams(scope["query_string"]).get("follow") != "no":
        return _STREAMS
    return _READS
