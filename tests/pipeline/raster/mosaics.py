"""Small mosaics with known contents."""

from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import BlockArrays, MosaicLayout, MosaicWriter, create_mosaic
from pipeline.raster.window import Window
from pipeline.storage import Folder

UTM = CRS.from_epsg(32633).to_wkt()
UPRIGHT = Affine(10, 0, 300_000, 0, -10, 5_000_000)
ROTATED = UPRIGHT @ Affine.rotation(25)
BLOCK_PX = 1024
NODE_PX = 4


@dataclass(frozen=True)
class Contents:
    """What blocks are cut from: full-size classes and confidence, and log-probabilities."""

    layout: MosaicLayout
    classes: NDArray[np.generic]
    confidence: NDArray[np.uint8]
    logits: NDArray[np.float16] | None

    def windows(self, block_px: int = BLOCK_PX) -> list[Window]:
        """The blocks."""
        grid = self.layout.grid
        return [
            Window(row, col, block_px, block_px).intersect(grid.window)
            for row in range(0, grid.height, block_px)
            for col in range(0, grid.width, block_px)
        ]

    def arrays(self, window: Window) -> BlockArrays:
        """A block's arrays; its lattice logits are a node longer than its share, as the engine gives them."""
        logits = None
        if self.logits is not None and self.layout.logits == "full":
            logits = self.logits[:, *window.slices]
        elif self.logits is not None:
            rows = slice(window.row // NODE_PX, -(-window.row_stop // NODE_PX) + 1)
            cols = slice(window.col // NODE_PX, -(-window.col_stop // NODE_PX) + 1)
            logits = self.logits[:, rows, cols]
        return BlockArrays(self.classes[window.slices], self.confidence[window.slices], logits)

    def write(self, folder: Folder, windows: list[Window] | None = None) -> dict[str, str]:
        """Create the mosaic and write blocks; gives the objects' checksums."""
        create_mosaic(folder, self.layout)
        writer = MosaicWriter(folder, self.layout)
        written = {}
        for window in self.windows() if windows is None else windows:
            written |= writer.write(window, self.arrays(window))
        return written


def make_contents(
    height: int,
    width: int,
    *,
    logits: str = "none",
    num_classes: int = 3,
    transform: Affine = UPRIGHT,
    crs_wkt: str | None = UTM,
) -> Contents:
    """Blotches of every class, a hole without data, and probabilities whose winners the classes are."""
    colors = tuple(f"#{40 + index % 200:02x}{index * 7 % 256:02x}{255 - index % 256:02x}"
                   for index in range(num_classes))  # fmt: skip
    layout = MosaicLayout(
        grid=Grid(height, width, transform, crs_wkt),
        class_names=tuple(f"class {index}" for index in range(num_classes)),
        class_colors=colors,
        logits=logits,  # type: ignore[arg-type]
        node_px=NODE_PX,
        attributes={"model": {"id": "test"}},
    )
    random = np.random.default_rng(height * 10_000 + width)
    rows, cols = np.mgrid[0:height, 0:width]
    hole = (rows - height * 0.6) ** 2 + (cols - width * 0.3) ** 2 < (min(height, width) / 6) ** 2
    if logits == "none":
        classes = ((rows // 20 * 25 + cols // 20) % num_classes).astype(layout.class_dtype)
        confidence = random.integers(0, 255, (height, width), dtype=np.uint8)
        stored = None
    else:
        classes, confidence, stored = _from_probabilities(layout, random)
    classes[hole], confidence[hole] = layout.class_nodata, 255
    return Contents(layout, classes, confidence, stored)


def _from_probabilities(
    layout: MosaicLayout, random: np.random.Generator
) -> tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.float16]]:
    """Classes as torch upsamples the stored probabilities, on the whole mosaic at once."""
    import torch

    grid, nodes = layout.grid, layout.lattice_shape
    raw = torch.from_numpy(random.standard_normal((layout.num_classes, *nodes), dtype=np.float32)) * 2
    stored = torch.log_softmax(raw, 0).to(torch.float16)
    size = [(count - 1) * NODE_PX + 1 for count in nodes]
    full = torch.nn.functional.interpolate(
        stored.float().exp()[None], size=size, mode="bilinear", align_corners=True
    )[0][:, : grid.height, : grid.width]
    best, winner = full.max(0)
    confidence = (best * 254 + 0.5).to(torch.uint8).numpy()
    logits = stored.numpy() if layout.logits == "lattice" else full.log().to(torch.float16).numpy()
    return winner.numpy().astype(layout.class_dtype), confidence, logits
