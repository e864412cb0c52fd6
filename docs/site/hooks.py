"""What mkdocs does not do by itself: pages from outside docs/, and links to what is no page.

The Markdown stays as it is read in a checkout. Links to files of the checkout lead to copies of
them in the site, those to directories to the address of the source.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = "https://hbtrio.example/tree/main"

#: Pages that are elsewhere in the checkout.
PAGES: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "deploy/README.md": "deploy.md",
}

_LINK: Final = re.compile(r"\]\((?!https?:|#|mailto:)(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_CODE: Final = re.compile(r"(?<!`)`[^`\n]+`(?!`)")
_MERMAID: Final = re.compile(r"^```mermaid\n(?P<diagram>.*?)^```\n", re.M | re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and the files that links lead to."""
    linked = set()
    for place in [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]:
        for match in _LINK.finditer((ROOT / place).read_text(encoding="utf-8")):
            target = _target(place, match["path"])
            if (ROOT / target).is_file() and target not in PAGES and not target.startswith("docs/"):
                linked.add(target)
    for place, name in PAGES.items():
        text = (ROOT / place).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    for place in sorted(linked):
        files.append(File.generated(config, f"files/{place}", abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Changes what a site shows in another way than a checkout."""
    places = {name: place for place, name in PAGES.items()}
    place = places.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def moved(match: re.Match[str]) -> str:
        target = _target(place, match["path"])
        anchor = match["anchor"] or ""
        if target in PAGES:
            return f"]({PAGES[target]}{anchor})"
        if target.startswith("docs/"):
            return f"]({target.removeprefix('docs/')}{anchor})"
        if (ROOT / target).is_dir():
            return f"]({SOURCE}/{target})"
        return f"](files/{target})"

    return _as_commonmark(_MERMAID.sub(_as_source, _LINK.sub(moved, markdown)))


def _target(place: str, path: str) -> str:
    """Where a link leads, from the top of the checkout."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), path))


def _as_source(match: re.Match[str]) -> str:
    """A diagram as its source: what draws it would be fetched from another host."""
    lines = match["diagram"].splitlines()
    inner = "".join(f"    {line}\n" for line in ["```", *lines, "```"])
    return f'??? note "Diagram, as Mermaid source"\n\n{inner}\n'


def _as_commonmark(markdown: str) -> str:
    """Has lists and cells be what they are in a checkout, where CommonMark is read.

    Python-Markdown wants a blank line before a list, and in a cell's code no backslash at a bar.
    """
    lines: list[str] = []
    fenced = listed = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        item = not fenced and re.match(r"- |\d+\. ", line) is not None
        above = lines[-1] if lines else ""
        if item and not listed and above.strip():
            lines.append("")
        listed = item or (listed and (not above.strip() or bool(line.strip())))
        if listed and not item and not above.strip() and not line.startswith(" "):
            listed = False
        lines.append(_CODE.sub(_unescaped, line) if line.startswith("|") else line)
    return "\n".join(lines) + "\n"


def _unescaped(match: re.Match[str]) -> str:
    return match[0].replace("\\|", "|")
