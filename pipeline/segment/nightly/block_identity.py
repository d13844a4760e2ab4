"""What a block's bytes depend on, and so whether last night's may be taken again. Pure: nothing is read.

Two things. What all blocks share: the run's fingerprint without its files (model, settings, grid, block size,
arrays). And what a block has for itself: the files that may show in it or in its halo, each with what tells
its versions apart (ETag, size, time), in the order in which they count, and how they are described (where
they lie, which of their bands are which).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Scene = Mapping[str, Any]
"""One file: its URL, and what tells its versions apart."""

SOURCE, FILES, SCENES = "source", "files", "scenes"
"""Fingerprint fields: the group, and what of it every block has for itself."""


@dataclass(frozen=True)
class Reason:
    """Why a block must be computed.

    Attributes:
        kind: first, model, settings, layout, scenes, description or new.
        scenes: For scenes, what became of which: (added, removed, changed or reordered; URL).
    """

    kind: str
    scenes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class BlockIdentities:
    """What every block of a mosaic depends on.

    Attributes:
        shared: What all of them depend on.
        scenes: Files of the whole source, in order.
        blocks: For each block the indices of its files, in order.
        described: For each block a digest of how its files are described; empty where all share that.
    """

    shared: Mapping[str, Any]
    scenes: Sequence[Scene]
    blocks: Mapping[str, Sequence[int]]
    described: Mapping[str, str]

    @classmethod
    def of(
        cls,
        fields: Mapping[str, Any],
        scenes: Sequence[Scene],
        blocks: Mapping[str, Sequence[int]],
        described: Mapping[str, str],
    ) -> "BlockIdentities":
        """From a run's fingerprint fields; as JSON has them, so that lists and tuples compare."""
        plain: dict[str, Any] = json.loads(json.dumps(fields))
        source = {name: value for name, value in plain[SOURCE].items() if name not in (FILES, SCENES)}
        return cls(plain | {SOURCE: source}, list(scenes), blocks, described)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "BlockIdentities":
        """What ``to_json`` described."""
        return cls(value["shared"], value["scenes"], value["blocks"], value["described"])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        blocks = {name: list(indices) for name, indices in self.blocks.items()}
        return {
            "shared": self.shared,
            "scenes": list(self.scenes),
            "blocks": blocks,
            "described": dict(self.described),
        }

    def scenes_of(self, block: str) -> list[Scene]:
        """A block's files."""
        return [self.scenes[index] for index in self.blocks[block]]


@dataclass(frozen=True)
class Comparison:
    """Which blocks differ from an earlier mosaic's, and why.

    Attributes:
        stale: Blocks to compute.
        fields: Names of what all blocks share and what differs, as ``inference.scales``.
    """

    stale: Mapping[str, Reason]
    fields: Sequence[str] = ()

    @classmethod
    def with_nothing(cls, now: BlockIdentities) -> "Comparison":
        """There is nothing to compare with: every block is computed."""
        return cls(dict.fromkeys(now.blocks, Reason("first")))


def compare(now: BlockIdentities, before: BlockIdentities) -> Comparison:
    """Which blocks must be computed."""
    fields = sorted(_differences(now.shared, before.shared))
    if fields:
        # Normalisation comes from the model: where that differs, it is the model's doing.
        kind = "model" if any(name.startswith("model.") for name in fields) else "settings"
        return Comparison(dict.fromkeys(now.blocks, Reason(kind)), fields)
    stale = {}
    for block in now.blocks:
        if block not in before.blocks:
            stale[block] = Reason("new")
            continue
        present, past = now.scenes_of(block), before.scenes_of(block)
        if [version_of(scene) for scene in present] != [version_of(scene) for scene in past]:
            stale[block] = Reason("scenes", tuple(_what_became(present, past)))
        elif now.described.get(block) != before.described.get(block):
            stale[block] = Reason("description")
    return Comparison(stale)


def version_of(scene: Scene) -> tuple[Any, ...]:
    """What tells a file's versions apart; a file that was only moved is the same file."""
    return tuple(scene.get(name) for name in ("size_bytes", "etag", "modified"))


def _what_became(present: Sequence[Scene], past: Sequence[Scene]) -> Iterator[tuple[str, str]]:
    """Each file that differs; one that was only moved is the same."""
    now, before = [version_of(scene) for scene in present], [version_of(scene) for scene in past]
    fresh = [scene["url"] for scene in present if version_of(scene) not in before]
    gone = [scene["url"] for scene in past if version_of(scene) not in now]
    yield from (("changed" if url in gone else "added", url) for url in fresh)
    yield from (("removed", url) for url in gone if url not in fresh)
    urls = {version_of(scene): scene["url"] for scene in present}
    kept_now = [version for version in now if version in before]
    kept_before = [version for version in before if version in now]
    moved = (one for one, other in zip(kept_now, kept_before, strict=False) if one != other)
    yield from (("reordered", urls[version]) for version in moved)


def _differences(first: object, second: object, name: str = "") -> Iterator[str]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in {*first, *second}:
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(first.get(key), second.get(key), inner)
    elif json.dumps(first) != json.dumps(second):  # NaN equals itself only as text
        yield name
