"""The URL of a database of several agents: ``postgresql://USER@HOST[,HOST…]/DATABASE``."""

from __future__ import annotations

import re
from typing import Final

#: The URLs that may be set. Others that libpq knows, such as ``postgres://``, say the same.
URL: Final = r"postgresql://[^\s/?]*(/[^\s/?]*)?(\?\S*)?"

_USER: Final = re.compile(r"(?<=://)[^@/?]*@")


def has_password(url: str) -> bool:
    """Returns whether a URL contains a password, which would be in the log and in messages."""
    user = _USER.search(url)
    options = url.partition("?")[2].split("&")
    return (user is not None and ":" in user[0]) or any(
        option.partition("=")[0] == "password" for option in options
    )


def without_options(url: str) -> str:
    """Returns a URL as messages name it: without user and options."""
    return _USER.sub("", url).partition("?")[0]
