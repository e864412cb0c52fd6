"""What tests of real processes share."""

from __future__ import annotations

from support.home import home

__all__ = ["home"]
