"""Lists or copies the files that come with hbtrio: configuration, units, documentation and samples.

A wheel has all of them. After `hbtrio files --copy DIRECTORY`, run
`DIRECTORY/deploy/install.sh --files-only host` to install the files of a host whose program pip has
installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hbtrio
from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.output import write_out

#: What of a checkout comes with the program, as in ``force-include`` of pyproject.toml.
PARTS: Final = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "config",
    "deploy",
    "docs",
    "examples",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print the names, one in a line")
    what.add_argument(
        "--copy",
        metavar="DIRECTORY",
        help="copy them below this directory, which is made if it is missing; "
        "no existing file is replaced",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="only these files or directories, such as deploy or config/host.toml",
    )


def run(options: argparse.Namespace) -> int:
    """Lists or copies the files.

    Raises:
        UserError: there is no such file, or it exists at the destination or can't be written
            there. In the first two cases nothing is copied.
    """
    top = _top()
    names = _chosen([str(path.relative_to(top)) for path in _files(top)], options.names)
    if options.list:
        write_out("".join(f"{name}\n" for name in names))
    else:
        _copy(top, names, Path(options.copy))
    return ExitStatus.DONE


def _top() -> Path:
    """Where the files are: in the installed package, or in the checkout that it is."""
    package = Path(hbtrio.__file__).parent
    for top in (package / "files", package.parent.parent):
        if all((top / part).exists() for part in PARTS):
            return top
    raise UserError(
        f"{package}: installed without its files; install a wheel of hbtrio", ExitStatus.FAILED
    )


def _files(top: Path) -> Iterator[Path]:
    for part in PARTS:
        if (top / part).is_file():
            yield top / part
        for directory, inner, names in os.walk(top / part):
            inner[:] = sorted(name for name in inner if name != "__pycache__")
            yield from (Path(directory, name) for name in sorted(names))


def _chosen(names: list[str], wanted: list[str]) -> list[str]:
    """Those of ``names`` that are wanted or in a wanted directory; all if nothing is wanted."""
    if not wanted:
        return names
    places = [os.path.normpath(word) for word in wanted]
    for place, word in zip(places, wanted, strict=True):
        if not any(_is_at(name, place) for name in names):
            raise UserError(f"no file {word!r}, see hbtrio files --list", ExitStatus.FAILED)
    return [name for name in names if any(_is_at(name, place) for place in places)]


def _is_at(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}/")


def _copy(top: Path, names: list[str], directory: Path) -> None:
    there = [directory / name for name in names if os.path.lexists(directory / name)]
    if there:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UserError(f"{there[0]}: exists already{more}; nothing was copied")
    for name in names:
        with _explained(directory / name):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(top / name, directory / name)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{path}: {os_reason(error)}", ExitStatus.DENIED) from error
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}", ExitStatus.FAILED) from error
