"""What tests of real processes share."""

from __future__ import annotations

from support.home import home
from support.postgres import postgres, server

__all__ = ["home", "postgres", "server"]
