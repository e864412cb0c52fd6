"""Reads configuration files as text, and words their faults.

A wrong ``--config`` may name anything: a device, a FIFO, a disk image. So only a regular file is
read, and only up to :data:`LIMIT_BYTES`. Text of the file in a fault is cut and made printable, so
a fault is one line and can't send control sequences to a terminal or a log.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable

from hbtrio.errors import ConfigError, ExitStatus
from hbtrio.text import printable

#: Far more than any configuration; a larger file is the wrong file.
LIMIT_BYTES = 64 * 1024

_SHOWN_CHARS = 80
# A wrong file may have a fault on each of its thousands of lines.
MAX_FAULTS = 50


class Fault(str):
    """A fault's text that knows what it is about.

    Args:
        text: the fault.
        about: paths of keys, and of indexes from 0 in a list, from where the fault was found: those
            that contradict each other, or the one that is wrong.
    """

    __slots__ = ("about",)

    about: tuple[tuple[str | int, ...], ...]

    def __new__(cls, text: str, *about: str | int | tuple[str | int, ...]) -> Fault:
        """Make the text; a path of one part may be that part."""
        fault = super().__new__(cls, text)
        fault.about = tuple(path if isinstance(path, tuple) else (path,) for path in about)
        return fault


def read_source(path: str | os.PathLike[str], *, missing_ok: bool = False) -> str:
    """Read a whole configuration file, without a byte order mark.

    The function blocks on the file system, so call it before the daemon starts its tasks.

    Args:
        path: the file.
        missing_ok: return an empty text if the file doesn't exist.

    Raises:
        ConfigError: the file doesn't exist, can't be read (DENIED for lack of permission), is not
            a regular file, is over 64 KiB, or is not UTF-8.
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
    return _decoded(raw, name)


def read_standard_input() -> str:
    """Read a whole configuration from standard input; errors are those of :func:`read_source`."""
    return _decoded(sys.stdin.buffer.read(LIMIT_BYTES + 1), "standard input")


def _decoded(raw: bytes, name: str) -> str:
    if len(raw) > LIMIT_BYTES:
        raise ConfigError([f"{name}: over {LIMIT_BYTES} bytes, too large for a configuration"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{name}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x})"]) from error


def shown(value: object) -> str:
    """Format a value for a fault: printable, cut at 80 characters, strings in quotes.

    Lists, tables and numbers beyond 64 bits are named instead: a hexadecimal TOML number may have
    more digits than Python prints.
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
    """Return the error for a file's faults: the first 50 and the number of others.

    Args:
        name: the file's name, printable.
        faults: at least one fault, each with the file's name.
    """
    more = len(faults) - MAX_FAULTS
    rest = [f"{name}: and {more} more faults"] if more > 0 else []
    return ConfigError(faults[:MAX_FAULTS] + rest)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the fault for an unknown key, with the most similar known key.

    Args:
        key: the key in the file.
        known: all valid keys.
    """
    import difflib  # here: a file without a fault needs none of it, in a small VM

    # Ignore case and the kind of dash, the most common mistakes.
    spellings = {_plain(name): name for name in known}
    near = difflib.get_close_matches(_plain(_cut(key)), spellings, n=1)
    return "unknown key" + (f", did you mean {spellings[near[0]]}?" if near else "")


def _open_at_once(path: str, flags: int) -> int:
    # Otherwise opening a FIFO without a writer would block for ever.
    return os.open(path, flags | os.O_NONBLOCK)


def _plain(key: str) -> str:
    return key.casefold().replace("_", "-")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
