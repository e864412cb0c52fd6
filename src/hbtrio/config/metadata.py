"""Reads what the metadata of a domain sets for its instance, as host.toml may."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hbtrio.config.instances import METADATA, InstanceSettings
from hbtrio.config.toml import structure
from hbtrio.errors import ConfigError

_NUMBER: Final = re.compile(r"-?\d{1,15}(\.\d{1,15})?", re.ASCII)


class MetadataFault(Exception):
    """The element can't be used; the text is its first fault, and how many others it has."""


def read_metadata(attributes: Mapping[str, str]) -> InstanceSettings:
    """Reads the attributes of the element in a domain's metadata.

    Raises:
        MetadataFault: one is unknown, or has a faulty value.
    """
    data = {name: _value(text) for name, text in attributes.items()}
    try:
        return structure(data, InstanceSettings, METADATA)
    except ConfigError as error:
        first, *others = error.faults
        more = f"; and {len(others)} more" if others else ""
        raise MetadataFault(first.removeprefix(f"{METADATA}: ") + more) from error


def _value(text: str) -> bool | float | str:
    """Reads a value as host.toml would, without the quotes."""
    if text in ("true", "false"):
        return text == "true"
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text
