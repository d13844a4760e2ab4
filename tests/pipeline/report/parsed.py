"""A page as a reader of HTML sees it."""

import itertools
import re
from collections import Counter
from html.parser import HTMLParser

VOID = {"img", "meta", "br", "hr", "link"}


class Page(HTMLParser):
    """Elements with their attributes and text, in order; insists that every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.elements = []
        self.text = ""
        self._open = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"an attribute of <{tag}> is there twice"
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, texts in self._open:
            texts.append(data)
        if not any(tag in ("style", "title") for tag, _, _ in self._open):
            self.text += data

    def all(self, tag, **attributes):
        """Attributes and text of every element of a name."""
        return [
            (attrs, "".join(texts))
            for found, attrs, texts in self.elements
            if found == tag
            and all(attrs.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]

    def hurdles(self):
        """What keeps those who cannot see the page from reading it."""
        ids = [attrs["id"] for _, attrs, _ in self.elements if "id" in attrs]
        levels = [int(tag[1]) for tag, _, _ in self.elements if re.fullmatch("h[1-6]", tag)]
        charts = [attrs for attrs, _ in self.all("svg") if "chart" in attrs.get("class", "")]
        return [
            *(
                f"an image is told as {attrs['alt']!r}"
                for attrs, _ in self.all("img")
                if len(attrs["alt"]) < 16
            ),
            *(
                "a header heads nothing"
                for attrs, _ in self.all("th")
                if attrs.get("scope") not in ("col", "row")
            ),
            *("a chart is not told as an image" for attrs in charts if attrs.get("role") != "img"),
            *(f"{name} is twice there" for name, count in Counter(ids).items() if count > 1),
            *(f"{attrs['href']} leads nowhere" for attrs, _ in self.all("a") if attrs["href"][1:] not in ids),
            *(
                f"h{after} follows h{before}"
                for before, after in itertools.pairwise(levels)
                if after > before + 1
            ),
        ]

    def rows(self, caption):
        """The cells of the table with a caption, header first."""
        start = next(
            index
            for index, (tag, _, texts) in enumerate(self.elements)
            if tag == "caption" and "".join(texts) == caption
        )
        rows = []
        for tag, _, texts in self.elements[start + 1 :]:
            if tag == "table":
                break
            if tag == "tr":
                rows.append([])
            elif tag in ("th", "td"):
                rows[-1].append("".join(texts).replace("\u202f", " "))
        return rows
