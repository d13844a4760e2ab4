"""What changed from one mosaic to the next: pixels by class before and after, and a layer to look at.

Only blocks that were computed are compared, each by one task that reads it in both mosaics. The layer is
the group ``changes`` of the new mosaic: arrays ``from`` and ``to`` with class indices where the class
changed, nodata elsewhere; chunks without a change are not stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from pipeline.raster.mosaic import CHUNK_PX, Mosaic, MosaicLayout
from pipeline.raster.mosaic_create import create_georeference
from pipeline.raster.window import Window
from pipeline.segment.executor import Record
from pipeline.segment.plan import Block, Plan
from pipeline.storage import Folder

GROUP = "changes"
PREVIOUS = "previous"
NOTHING = "no data"
"""What reports call pixels without a class."""


@dataclass(frozen=True)
class ChangeSpec:
    """What the tasks need: plain values, so that they travel.

    Attributes:
        before: The earlier mosaic.
        after: The new one, of the same grid.
        plan: Where blocks lie.
        layer: Whether the layer is written.
    """

    before: Folder
    after: Folder
    plan: Plan
    layer: bool


class ChangeWorker:
    """Compares blocks by name."""

    def __init__(self, spec: ChangeSpec) -> None:
        self._spec = spec
        self._before, self._after = Mosaic.open(spec.before.url), Mosaic.open(spec.after.url)
        self._names = union_of_names(self._before.layout, self._after.layout)
        self._layer = _open_layer(spec.after) if spec.layer else None

    def __call__(self, task: str) -> Record:
        """Count a block's pixels by class before and after."""
        counts = np.zeros((len(self._names) + 1,) * 2, np.int64)
        window = self._spec.plan.window(Block.from_id(task))
        for row in range(window.row, window.row_stop, CHUNK_PX):
            height = min(CHUNK_PX, window.row_stop - row)
            self._compare(Window(row, window.col, height, window.width), counts)
        pairs = [[int(one), int(other), int(counts[one, other])] for one, other in np.argwhere(counts)]
        return {"state": "done", "pairs": pairs}

    def _compare(self, window: Window, counts: NDArray[np.int64]) -> None:
        before, after = self._before.classes(window), self._after.classes(window)
        old = _in_union(self._before.layout, self._names)[before]
        new = _in_union(self._after.layout, self._names)[after]
        side = len(counts)
        pairs = old.astype(np.int64) * side + new
        counts += np.bincount(pairs.ravel(), minlength=side * side).reshape(side, side)
        changed = old != new
        if self._layer is None or not changed.any():
            return
        for array, layout, values in zip(
            self._layer, (self._before.layout, self._after.layout), (before, after), strict=True
        ):
            array[window.slices] = np.where(changed, values, layout.class_nodata)


def union_of_names(before: MosaicLayout, after: MosaicLayout) -> list[str]:
    """The classes of both, those of the new mosaic first: a class is the same where its name is."""
    return list(dict.fromkeys((*after.class_names, *before.class_names)))


def create_layer(output: Folder, previous: str, before: MosaicLayout, after: MosaicLayout) -> None:
    """Write the layer's metadata; harmless where they are there already, of the same previous mosaic."""
    group = zarr.open_group(output.zarr_store(), mode="r+", use_consolidated=False)
    changes = group.require_group(GROUP)
    if changes.attrs.get(PREVIOUS, previous) != previous:
        output.child(GROUP).delete_all()
        changes = group.require_group(GROUP)
    changes.attrs[PREVIOUS] = previous
    for name, layout in (("from", before), ("to", after)):
        if name not in changes:
            changes.create_array(
                name,
                shape=layout.grid.window.shape,
                dtype=layout.class_dtype,
                chunks=(CHUNK_PX, CHUNK_PX),
                fill_value=layout.class_nodata,
                compressors=ZstdCodec(level=3),
                dimension_names=("y", "x"),
                attributes={
                    "long_name": f"class changed {name}",
                    "_FillValue": layout.class_nodata,
                    "flag_values": list(range(layout.num_classes)),
                    "flag_meanings": " ".join("_".join(one.split()) for one in layout.class_names),
                    "grid_mapping": "spatial_ref",
                },
            )
    create_georeference(changes, replace(after, stack=None), after.grid)


@dataclass
class Changes:
    """Pixels by class before and after, added up over blocks.

    Attributes:
        names: Classes of both mosaics; one index beyond them means no data.
        counts: Pixels by class before (row) and after (column), of the blocks that were compared.
        not_compared: Blocks that could not be, with the reason.
    """

    names: Sequence[str]
    counts: NDArray[np.int64] = field(init=False)
    not_compared: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = np.zeros((len(self.names) + 1,) * 2, np.int64)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one block."""
        for one, other, pixels in record["pairs"]:
            self.counts[one, other] += pixels

    def to_json(self, before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, Any]:
        """As the report has it.

        Args:
            before: Pixels of each class in the whole earlier mosaic.
            after: Pixels of each class in the whole new one.
        """
        moved = self.counts.copy()
        np.fill_diagonal(moved, 0)
        names = [*self.names, NOTHING]
        classes = [
            {
                "name": name,
                "before": before.get(name, 0),
                "after": after.get(name, 0),
                "lost": int(moved[index].sum()),
                "gained": int(moved[:, index].sum()),
            }
            for index, name in enumerate(self.names)
        ]
        places = sorted(np.argwhere(moved).tolist(), key=lambda place: -moved[place[0], place[1]])
        return {
            "pixels_compared": int(self.counts.sum()),
            "pixels_changed": int(moved.sum()),
            "classes": classes,
            "transitions": [
                {"from": names[one], "to": names[other], "pixels": int(moved[one, other])}
                for one, other in places
            ],
            "not_compared": self.not_compared,
        }


def class_pixels(layout: MosaicLayout, records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Pixels of each class in a whole mosaic, from its ledger."""
    totals = np.zeros(layout.num_classes, np.int64)
    for record in records:
        counts = record.get("class_pixels", [])
        totals[: len(counts)] += np.asarray(counts, np.int64)
    return {name: int(total) for name, total in zip(layout.class_names, totals, strict=True)}


def _in_union(layout: MosaicLayout, names: Sequence[str]) -> NDArray[np.int64]:
    """From a mosaic's stored values to indices in the union; nodata comes last."""
    table = np.full(layout.class_nodata + 1, len(names), np.int64)
    table[: layout.num_classes] = [names.index(name) for name in layout.class_names]
    return table


def _open_layer(output: Folder) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
    group = zarr.open_group(output.zarr_store(), mode="r+", path=GROUP, use_consolidated=False)
    old, new = group["from"], group["to"]
    if not isinstance(old, zarr.Array) or not isinstance(new, zarr.Array):
        raise TypeError("the layer of changes must hold the arrays from and to")
    return old, new
