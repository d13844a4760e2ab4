"""A product of scenes laid on a given grid, and nights over it."""

import json
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from pipeline.config import RunConfig
from pipeline.segment.run import segment
from pipeline.storage import Folder
from tests.pipeline.segment.scene import BANDS, MEAN, STD, settings

HEIGHT, WIDTH = 3072, 120
"""Three blocks, one below the other."""

SCENES = {"top.tif": 100, "middle.tif": 1000, "bottom.tif": 2030}
"""First row of each scene. They are low, so that few crops hold any data: nights are no matter of size."""

SCENE_ROWS = 64

TOP, LEFT, PX = 5400000, 500000, 10
GRID = {
    "crs": "EPSG:32633",
    "resolution": PX,
    "bounds": [LEFT, TOP - HEIGHT * PX, LEFT + WIDTH * PX, TOP],
    "origin": [LEFT, TOP],
}


def scene_bytes(row: int, seed: int) -> bytes:
    """A GeoTIFF of some rows of the grid."""
    height = SCENE_ROWS
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(len(BANDS), height // 40 + 1, WIDTH // 40))
    data = np.stack([np.kron(band, np.ones((40, 40)))[:height, :WIDTH] for band in coarse])
    data = data * np.reshape(STD, (-1, 1, 1)) + np.reshape(MEAN, (-1, 1, 1)) + rng.normal(size=data.shape)
    profile = {
        "driver": "GTiff", "height": height, "width": WIDTH, "count": len(BANDS), "dtype": "uint8",
        "crs": "EPSG:32633", "transform": Affine(PX, 0, LEFT, 0, -PX, TOP - row * PX), "nodata": 0,
        "tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate",
    }  # fmt: skip
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as target:
            target.write(data.clip(1, 255).astype(np.uint8))
            target.descriptions = BANDS
        return bytes(memory.read())


class Product:
    """A product in a folder or bucket, with its scenes beside it."""

    def __init__(self, root: str, model: str) -> None:
        self.root = root.rstrip("/")
        self.model = model
        self.folder = Folder.at(f"{self.root}/product")
        for seed, name in enumerate(SCENES):
            self.put(name, seed=seed)

    def put(self, name: str, *, seed: int, row: int | None = None) -> None:
        """Store a scene, or replace it."""
        row = SCENES[name] if row is None else row
        Folder.at(f"{self.root}/scenes").write(name, scene_bytes(row, seed))

    def document(self, *, product: str = "product", **groups) -> dict:
        """Settings of a night."""
        document = settings("", self.model, f"{self.root}/{product}")
        document["source"] = {"urls": [f"{self.root}/scenes/*.tif"], "grid": dict(GRID)}
        document["incremental"] = {"previous": f"{self.root}/{product}/latest.json"}
        for group, values in groups.items():
            document[group] = document.get(group, {}) | values
        return document

    def night(self, **groups) -> dict:
        """Run a night."""
        return segment(RunConfig.model_validate(self.document(**groups)))

    def latest(self, product: str = "product") -> dict:
        """What readers see."""
        return json.loads(Folder.at(f"{self.root}/{product}").read("latest.json"))

    def versions(self) -> set[str]:
        """Names of all versions that there is anything of."""
        keys = (found.key for found in self.folder.child("versions").listing())
        return {key.split("/")[0].removesuffix(".run") for key in keys}

    def records(self, version: str) -> dict[str, dict]:
        """A version's ledger."""
        run = self.folder.child(f"versions/{version}.run")
        return {Path(found.key).stem: json.loads(run.read(found.key)) for found in run.listing("blocks/")}


def computed(report: dict) -> int:
    """Blocks that this attempt computed."""
    return report["blocks"]["done"] + report["blocks"]["empty"]
