"""A scripted guest daemon for the tests of applications.

::

    from hbtrio.testing import ScriptedGuest

    async with ScriptedGuest() as guest, Application("db", socket=guest.socket, on_vote=vote):
        db = await guest.wait_registered("db")
        assert (await db.vote("stop")).result == "reject"

It listens at a real unix socket, speaks the daemon's own messages and decides with the daemon's own
state machine, so that it works for any application: those of :mod:`hbtrio.app` and those linked
with the deployed library. Under asyncio and trio; :class:`BackgroundGuest` is for tests without an
event loop, and :mod:`hbtrio.testing.fixtures` for pytest. docs/testing-applications.md is the
guide.
"""

from hbtrio.testing.answers import Answer, Health
from hbtrio.testing.application import GuestApplication
from hbtrio.testing.background import BackgroundApplication, BackgroundGuest
from hbtrio.testing.guest import ScriptedGuest

__all__ = [
    "Answer",
    "BackgroundApplication",
    "BackgroundGuest",
    "GuestApplication",
    "Health",
    "ScriptedGuest",
]
