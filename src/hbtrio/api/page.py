"""The status page: static files of the package, served beside the API that they show.

    GET  /             the page
    GET  /page/NAME    its scripts, styles and icon

The files hold nothing of a fleet, so they are served to everybody who may connect: a browser can't
send a token with the address that its user types. What they show they ask of the API, with the
token that the user types where one is needed. ``docs/page.md`` describes the page.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Final

import attrs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

#: Where the files are served; the page itself is at ``/``.
_FOLDER: Final = "/page/"
_INDEX: Final = "index.html"

_MEDIA_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

#: Only this server's own files and API, nothing inline, in nobody's frame; no text becomes markup.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

_HEADERS: Final = {
    # After an upgrade of the daemon, no file of the page may be an old one.
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@attrs.frozen
class _File:
    """A file of the page.

    Args:
        content: its bytes.
        media_type: what they are.
        tag: changes with them, for ``If-None-Match``.
    """

    content: bytes
    media_type: str
    tag: str


def page_routes() -> list[Route]:
    """The routes of the page; the same for host and agent, whose status tells the page apart."""
    return [
        Route("/", _serve, methods=["GET"]),
        Route(f"{_FOLDER}{{name}}", _serve, methods=["GET"]),
    ]


def is_page(scope: Scope) -> bool:
    """Whether a request is for the page or one of its files."""
    path: str = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path == "/" or path.startswith(_FOLDER))


async def _serve(request: Request) -> Response:
    file = _files().get(request.path_params.get("name", _INDEX))
    if file is None:
        return Response(status_code=404)
    headers = {**_HEADERS, "etag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


@cache
def _files() -> dict[str, _File]:
    """The files by name, read once: some 60 KiB."""
    files = {}
    for entry in (resources.files("hbtrio") / "page").iterdir():
        media_type = _MEDIA_TYPES.get(entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            files[entry.name] = _File(content, media_type, tag)
    return files
