"""Decides who may look at a host and who may act on it, through its control socket.

The socket's mode decides who can connect. ``[control]`` of host.toml can limit those who can:

* root and the daemon's own user may always act;
* a member of a group in ``act`` may act, which includes looking;
* with ``act`` or ``look`` set, nobody else may act;
* with ``look`` set, nobody else may look; without it, whoever can connect may.

The groups of a client are those of its process at the time of the connect, its supplementary groups
included: membership that was granted later counts after the next login. A request that may act is
preferred to one that may not: see :mod:`hbtrio.api.places`.
"""

from __future__ import annotations

import grp
import logging
import os
import re
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Final

import attrs
import trio
from starlette.types import ASGIApp, Receive, Scope, Send

from hbtrio.api.common import failure
from hbtrio.api.places import SAFE_METHODS, request_classes
from hbtrio.config.host import ControlSettings
from hbtrio.errors import ExitStatus, UserError
from hbtrio.http.server import PEER_EXTENSION, PeerCredentials
from hbtrio.log.subject import fields
from hbtrio.policy.quota import Quota
from hbtrio.text import printable

_log = logging.getLogger("hbtrio.host")

#: Characters of a path in the log.
_PATH: Final = 100

#: Refusals a minute that are recorded, so that who may do nothing can't fill the history.
RECORDED: Final = 30

#: What changes something: a request about an instance, and the release of the brake.
_ACT: Final = re.compile(r"/v1/(?:instances/(?P<uuid>[\w.-]{1,64})/)?(?:brake/)?(?P<what>\w{1,20})")

#: Takes a refusal: the instance or "", what was asked for, who asked, and why it is refused.
Refused = Callable[[str, str, str, str], None]


class Right(IntEnum):
    """What a client may do; each includes those before it."""

    NOTHING = 0
    LOOK = 1
    ACT = 2


@attrs.frozen
class ControlAccess:
    """Who may do what.

    Args:
        own_uid: the daemon's user.
        look: the ids of the groups that may look.
        act: the ids of the groups that may act.
    """

    own_uid: int = attrs.field(factory=os.geteuid)
    look: frozenset[int] = frozenset()
    act: frozenset[int] = frozenset()

    @classmethod
    def of(cls, settings: ControlSettings, file: str) -> ControlAccess:
        """Looks the groups up.

        Args:
            settings: their names.
            file: the configuration file, for the error.

        Raises:
            UserError: USAGE, a group does not exist on this machine.
        """
        look = _gids(settings.look, f"{file}: control.look")
        return cls(look=look, act=_gids(settings.act, f"{file}: control.act"))

    def right_of(self, peer: PeerCredentials) -> Right:
        """Returns what a client may do."""
        if peer.uid in (0, self.own_uid) or not (self.look or self.act):
            return Right.ACT
        groups = {peer.gid, *peer.groups}
        if groups & self.act:
            return Right.ACT
        return Right.LOOK if groups & self.look or not self.look else Right.NOTHING


class ControlAdmission:
    """Admits requests to a host's application, or refuses them.

    Args:
        app: the application.
        access: who may do what.
        refused: records a refused request to change something, 30 a minute at most.
    """

    def __init__(self, app: ASGIApp, access: ControlAccess, refused: Refused) -> None:
        self._app = app
        self._access = access
        self._refused = refused
        self._recorded = Quota(RECORDED, 60.0)
        #: The places of its requests.
        self.classes = request_classes(lambda scope: self._right_of(scope) is Right.ACT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        needed = Right.LOOK if scope["method"] in SAFE_METHODS else Right.ACT
        right = self._right_of(scope)
        app = self._app if right >= needed else self._refusal(scope, right)
        await app(scope, receive, send)

    def _right_of(self, scope: Scope) -> Right:
        return self._access.right_of(scope["extensions"][PEER_EXTENSION])

    def _refusal(self, scope: Scope, right: Right) -> ASGIApp:
        who = f"uid {scope['extensions'][PEER_EXTENSION].uid}"
        if right is Right.LOOK:
            reason = f"{who} may look but not act: it is in no group of control.act of host.toml"
        else:
            reason = f"{who} is in no group of [control] of host.toml"
        path = printable(scope["path"])[:_PATH]
        act = None if scope["method"] in SAFE_METHODS else _ACT.fullmatch(scope["path"])
        about = fields("refused", uuid="" if act is None else act["uuid"] or "")
        _log.warning("operator %s; refused: %s %s", reason, scope["method"], path, extra=about)
        if act is not None and self._recorded.take(trio.current_time()):
            self._refused(act["uuid"] or "", act["what"], f"operator {who}", reason)
        return failure(403, reason)


def _gids(names: Iterable[str], where: str) -> frozenset[int]:
    gids = set()
    for name in names:
        try:
            gids.add(grp.getgrnam(name).gr_gid)
        except KeyError:
            text = f"{where}: no group named {name} on this machine"
            raise UserError(text, ExitStatus.USAGE) from None
    return frozenset(gids)
