"""Logging such that a slow log never delays a heartbeat, and every line says whom it is about.

Writing to a stalled syslog socket or a paused terminal blocks. So records go through a bounded
queue to a thread that writes them: :mod:`hbtrio.log.queue`. A line about an instance gets its name
there, too: :mod:`hbtrio.log.subject`.
"""

from __future__ import annotations

from hbtrio.log.output import logging_to
from hbtrio.log.queue import LogQueue
from hbtrio.log.recurring import SHORTAGE_S, LogOnce, ShortageLog
from hbtrio.log.subject import Subject

__all__ = ["SHORTAGE_S", "LogOnce", "LogQueue", "ShortageLog", "Subject", "logging_to"]
