"""A page as a reader of HTML sees it."""

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
