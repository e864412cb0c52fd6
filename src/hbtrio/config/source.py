"""A configuration file as text, and the words in which its faults are told.

A configuration file is written by an administrator, but a wrong ``--config`` may name anything: a
device, a FIFO, a disk image. So a file is read only if it is a regular one, and only up to
:data:`LIMIT_BYTES`. What of it appears in a fault is cut and made printable, so that a fault is
always one line and cannot play tricks with a terminal or a log.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable

from hbtrio.errors import ConfigError, ExitStatus

#: No configuration of ours comes near this; whatever is larger is the wrong file.
LIMIT_BYTES = 64 * 1024

_SHOWN_CHARS = 80
# More than anybody reads; the wrong file may have one on each of its thousands of lines.
_MAX_FAULTS = 50


def read_source(path: str | os.PathLike[str], *, missing_ok: bool = False) -> str:
    """Read a whole configuration file, without a byte order mark.

    Blocks for as long as the file system does: for daemons that have not started their tasks yet.

    Args:
        path: the file.
        missing_ok: no such file is as good as an empty one.

    Raises:
        ConfigError: it does not exist, cannot be read (DENIED if that is for its permissions), is
            no regular file, is over 64 KiB, or is not UTF-8.
    """
    name = printable(os.fspath(path))
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError([f"{name}: not a regular file"])
            raw = file.read(LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        if missing_ok:
            return ""
        raise ConfigError([f"{name}: no such file"]) from error
    except OSError as error:
        status = ExitStatus.DENIED if isinstance(error, PermissionError) else ExitStatus.USAGE
        raise ConfigError([f"{name}: cannot be read: {error.strerror}"], status) from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError([f"{name}: cannot be read: not a path"]) from error
    if len(raw) > LIMIT_BYTES:
        raise ConfigError([f"{name}: over {LIMIT_BYTES} bytes, too large for a configuration"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{name}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x})"]) from error


def printable(text: str) -> str:
    """Return ``text`` on one line: what a terminal would act on is shown as its escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def shown(value: object) -> str:
    """Return a value as a fault shows it: printable, in quotes if it is text, cut at 80 characters.

    Lists and tables are named rather than shown. So is a number beyond 64 bits: Python refuses to
    print one of many thousand digits, and TOML's hexadecimal form can hold it.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 64:
            return f"a number of {value.bit_length()} bits"
        case str():
            return f'"{printable(_cut(value))}"'
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return str(value)


def config_error(name: str, faults: list[str]) -> ConfigError:
    """Return the error for a file's faults: the first 50, and how many more there are.

    Args:
        name: the file's name, printable.
        faults: at least one, each of them naming the file already.
    """
    more = len(faults) - _MAX_FAULTS
    rest = [f"{name}: and {more} more faults"] if more > 0 else []
    return ConfigError(faults[:_MAX_FAULTS] + rest)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the fault of a key nobody knows, with the nearest one that exists.

    Args:
        key: the key as it was written.
        known: the keys there are, in the order in which they are documented.
    """
    # Compared without regard to case and kind of dash, which are the commonest slips of all.
    spellings = {_plain(name): name for name in known}
    near = difflib.get_close_matches(_plain(_cut(key)), spellings, n=1)
    return "unknown key" + (f", did you mean {spellings[near[0]]}?" if near else "")


def _open_at_once(path: str, flags: int) -> int:
    # Opening a FIFO nobody writes to would otherwise wait for ever.
    return os.open(path, flags | os.O_NONBLOCK)


def _plain(key: str) -> str:
    return key.casefold().replace("_", "-")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
