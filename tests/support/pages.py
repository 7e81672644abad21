"""The report page of made runs, as text and as its data."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from fsamlab.report.page import write_report


class Text(HTMLParser):
    """The text of a page without its scripts and styles, and the tags that are in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.inside: str | None = None
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside is None:
            self.words.append(data)


def written(root):
    write_report([root], root / "report.html")
    page = (root / "report.html").read_text()
    return page, Text(page)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
