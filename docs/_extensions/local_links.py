"""After a build, all links of the pages are followed that lead within the site, to files and to places in them.

Markdown's own links are checked while it is read; this also sees those of templates, notebooks and raw HTML, and that
no page fetches anything from elsewhere. What is wrong is a warning.
"""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

_LOADED = {"img": "src", "link": "href", "script": "src", "source": "src", "video": "src", "iframe": "src"}
_logger = logging.getLogger(__name__)


class _Page(HTMLParser):
    """Places that links can lead to, links, and what the page loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places, self.links, self.loaded = {""}, list[str](), list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif (name := _LOADED.get(tag)) in given:
            self.loaded.append(given[name])


def _check(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    root = Path(app.outdir)
    pages = {path.resolve(): _Page(path) for path in sorted(root.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(root.resolve())
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    _logger.warning("%s loads %s from elsewhere", name, link)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                _logger.warning("%s links to %s, which is not there", name, link)
            elif target in pages and unquote(parts.fragment) not in pages[target].places:
                _logger.warning("%s links to %s, a place that is not there", name, link)


def setup(app: Sphinx) -> dict[str, Any]:
    """Check when the pages are written."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
