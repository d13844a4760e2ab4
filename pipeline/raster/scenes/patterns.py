"""Which files a pattern names, in a folder or a bucket.

``*``, ``?`` and ``[...]`` stand for parts of one name, ``**/`` for any folders. A web server lists nothing,
so a pattern needs a folder or a bucket; and a ``?`` in a web address begins a signature.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.storage import Folder, is_local, join_url, redact

WILDCARDS = re.compile(r"[*?\[]")


def has_wildcard(url: str) -> bool:
    """Whether a normalised URL is a pattern; a local file whose name just looks like one is not."""
    if url.startswith(("http://", "https://")):
        return "*" in url
    return bool(WILDCARDS.search(url)) and not (is_local(url) and Path(url).exists())


class Listings:
    """Lists folders, each once."""

    def __init__(self) -> None:
        self._known: dict[str, list[str]] = {}

    def matching(self, pattern: str) -> list[str]:
        """All files that a pattern names, sorted."""
        matches = re.compile(translate(pattern, captures=False))
        return [url for url in self._below(fixed_folder(pattern)) if matches.fullmatch(url)]

    def cover(self, url: str) -> bool:
        """Whether the folder of a file, or one above it, was listed."""
        folder = url
        while folder and folder not in self._known:
            folder = folder.rpartition("/")[0]
        return bool(folder)

    def everything(self) -> frozenset[str]:
        """Every file that was listed, as it is and in lower case."""
        return frozenset(
            name for files in self._known.values() for url in files for name in (url, url.lower())
        )

    def _below(self, folder: str) -> list[str]:
        if folder not in self._known:
            if folder.startswith(("http://", "https://")):
                raise SettingsError(
                    f"a pattern must name files of a folder or a bucket, got {redact(folder)}/...: a web "
                    "server does not list its files; give the URLs one by one or in source.index"
                )
            self._known[folder] = sorted(_files(folder))
        return self._known[folder]


def _files(folder: str) -> Iterator[str]:
    for found in Folder(folder).listing():
        yield join_url(folder, found.key)


def fixed_folder(pattern: str) -> str:
    """The part of a pattern before the first name with a wildcard."""
    found = WILDCARDS.search(pattern)
    fixed = pattern if found is None else pattern[: found.start()]
    return fixed.rpartition("/")[0] or "/"


def translate(pattern: str, *, captures: bool) -> str:
    """A pattern as the text of a regular expression; with captures, each wildcard is a group."""
    opening = "(" if captures else "(?:"
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    text = ""
    for part in parts:
        if part == "**/":
            text += f"{opening}(?:[^/]+/)*)"
        elif part == "**":
            text += f"{opening}.*)"
        elif part == "*":
            text += f"{opening}[^/]*)"
        elif part == "?":
            text += f"{opening}[^/])"
        elif part.startswith("[") and part.endswith("]"):
            inner = part[1:-1].replace("\\", r"\\")
            text += f"{opening}[{f'^{inner[1:]}' if inner.startswith('!') else inner}])"
        else:
            text += re.escape(part)
    return text
