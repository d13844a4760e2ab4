"""A run folder and a mosaic as a run would leave them, made without running a model."""

import json
from pathlib import Path

import numpy as np

from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import BlockArrays, MosaicLayout, MosaicWriter, create_mosaic
from pipeline.raster.window import Window
from pipeline.storage import Folder

START = 1_790_000_000.0
NAMES = ("water", "forest", "field", "town")
COLORS = ("#2f6f9f", "#2e6b3c", "#d9b650", "#a4433a")


def layout(grid, names=NAMES, colors=COLORS, **attributes):
    model = {"url": "s3://models/land", "sha256": "ab" * 32, "arch": "deeplabv3plus", "backbone": "resnet50"}
    return MosaicLayout(
        grid=grid,
        class_names=tuple(names),
        class_colors=tuple(colors),
        logits="none",
        node_px=4,
        attributes={
            "model": model,
            "sources": [{"url": "scene.tif"}],
            "source_origin": [0, 0],
            "software": "terrazzo 0.1.0",
            "run_id": "f" * 32,
            **attributes,
        },
    )


def block_name(row, col):
    return f"r{row:05d}c{col:05d}"


def record(name, class_pixels, *, worker="node-1:100", started=START, seconds=None, **more):
    return {
        "block": name,
        "state": "done",
        "worker": worker,
        "started": started,
        "seconds": seconds or {"read": 1.0, "wait_and_compute": 6.0, "compute": 5.0, "write": 0.5},
        "crops": 9,
        "pixels": int(sum(class_pixels)),
        "class_pixels": [int(count) for count in class_pixels],
        "objects": {},
        "peak_rss_bytes": 1 << 30,
        "batch": 2,
        **more,
    }


def plan(grid, *, block_px, blocks, source_url, output):
    return {
        "run_id": "f" * 32,
        "fingerprint": "0123456789abcdef",
        "fingerprint_fields": {
            "result_version": 1,
            "model": {"sha256": "ab" * 32},
            "source": {"bands": [1, 2, 3], "nodata": None, "gain": [1.0, 1.0, 1.0]},
            "crop": {"size_px": 513, "stride_px": 384},
            "blend": {"window": "gaussian"},
        },
        "choices": {"device": "cpu", "threads": 1, "precision": "fp32", "compile": False, "batch": 2},
        "workers": {"count": 2, "grow": False, "threads": 1, "gpus": 0.0, "memory_bytes": 4 << 30},
        "source": {"url": source_url, "height": grid.height, "width": grid.width},
        "grid": grid.to_json(),
        "block": {"size_px": block_px, "rows": 1, "cols": 1},
        "blocks": blocks,
        "crops": {"unique": 100, "computed": 134, "ratio": 1.34, "largest_block": 30},
        "skipped": {"blocks_outside_region": 0},
        "memory_per_worker": {"total_bytes": 2 << 30},
        "memory_limit_bytes": 4 << 30,
        "estimated_seconds": None,
        "output": output,
    }


def report(plan_document, records, **more):
    pixels = sum(one["pixels"] for one in records)
    return {
        "status": "complete",
        "blocks": {
            "total": plan_document["blocks"], "done": len(records), "empty": 0, "failed": 0, "skipped": 0,
        },
        "crops": {"unique": 100, "computed": sum(one["crops"] for one in records)},
        "pixels": pixels,
        "seconds": 40.0,
        "mpx_per_s": pixels / 1e6 / 40.0,
        "peak_rss_bytes": 1 << 30,
        "fingerprint": "0123456789abcdef",
        "output": plan_document["output"],
        "stages": {},
        "class_pixels": [],
        "seam": 1.03,
        "failures": [],
        "retries": [],
        "audit": {"objects": 2 * len(records), "faults": []},
        "plan": plan_document,
        **more,
    }  # fmt: skip


def write_run(output, plan_document, records, *, failed=(), overviews=False, **of_report):
    """The run folder beside ``output``."""
    folder = Folder.at(f"{output}.run")

    def put(key, document):
        folder.write(key, json.dumps(document).encode())

    put("plan.json", plan_document)
    put("report.json", report(plan_document, records, **of_report))
    for one in records:
        put(f"blocks/{one['block']}.json", one)
    for one in failed:
        put(f"failed/{one['block']}.json", one)
    if overviews:
        put("overviews.json", {"blocks": sorted(one["block"] for one in records)})


def write_mosaic(output, mosaic_layout, classes_HW, confidence_HW):
    """A mosaic of given values, written as one block."""
    folder = Folder.at(output)
    create_mosaic(folder, mosaic_layout)
    whole = Window(0, 0, *classes_HW.shape)
    MosaicWriter(folder, mosaic_layout).write(whole, BlockArrays(classes_HW, confidence_HW, None))


def small_run(folder: Path, *, names=NAMES, colors=COLORS, crs_wkt=None, transform=None, source=None, **more):
    """A mosaic of 40 × 60 px in one block, classes in four vertical stripes; gives its path."""
    output = str(folder / "land.zarr")
    grid = Grid(40, 60, transform, crs_wkt) if transform is not None else Grid(40, 60)
    classes = np.repeat(np.arange(4, dtype=np.uint8), 15)[None].repeat(40, axis=0)
    classes[:4] = 255
    mosaic_layout = layout(grid, names, colors, **more.pop("attributes", {}))
    confidence = np.where(classes == 255, 255, 200).astype(np.uint8)
    write_mosaic(output, mosaic_layout, classes, confidence)
    counts = [int((classes == index).sum()) for index in range(4)]
    url = source or str(folder / "gone.tif")
    plan_document = plan(grid, block_px=1024, blocks=more.pop("blocks", 1), source_url=url, output=output)
    write_run(output, plan_document, [record(block_name(0, 0), counts)], **more)
    return output
