"""The SDK for applications inside a VM: heartbeat, votes and notices.

::

    from hbtrio.app import Accept, Application, Reject, Vote

    app = Application("db", heartbeat_s=1.0, vote_s=5)

    @app.on_vote
    async def vote(vote: Vote) -> Accept | Reject:
        return Reject("a backup is running") if backup.running else Accept()

    async with app:
        await serve()

The SDK uses anyio and so runs under asyncio and trio. :mod:`hbtrio.app.sync` is for programs
without an event loop. docs/python-applications.md is the guide.
"""

from hbtrio.app.application import Application
from hbtrio.app.inhibition import Inhibition
from hbtrio.app.more_time import NoMoreTime
from hbtrio.app.registration import Refused
from hbtrio.app.requests import Notice, Vote
from hbtrio.app.responses import Accept, Healthy, Reject, Unhealthy
from hbtrio.wire.app_socket import DEFAULT_APP_SOCKET as DEFAULT_SOCKET
from hbtrio.wire.vocabulary import CorrectiveAction, Event

__all__ = [
    "DEFAULT_SOCKET",
    "Accept",
    "Application",
    "CorrectiveAction",
    "Event",
    "Healthy",
    "Inhibition",
    "NoMoreTime",
    "Notice",
    "Refused",
    "Reject",
    "Unhealthy",
    "Vote",
]
