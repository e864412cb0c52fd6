"""What a tenant may write: the characters that must not leave a daemon raw, and any text at all."""

from __future__ import annotations

import sys
import unicodedata
from typing import Final

from hypothesis import strategies as st

#: Control, format, surrogate, line and paragraph separator.
HOSTILE_CATEGORIES: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")

#: Every character of these categories.
HOSTILE: Final = "".join(
    char
    for char in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(char) in HOSTILE_CATEGORIES
)

#: Any text, with halves of surrogate pairs; often with what is hostile, in JSON or to a command.
TENANT_TEXTS: Final = st.text(
    st.characters() | st.sampled_from(HOSTILE) | st.sampled_from("-\x1b\x85\x9b\u2028\u202e \"\\'")
)


def hostile_in(text: str) -> list[str]:
    """The hostile characters of a text, as code points: for a test that shows them."""
    return [
        f"U+{ord(char):04X}" for char in text if unicodedata.category(char) in HOSTILE_CATEGORIES
    ]
