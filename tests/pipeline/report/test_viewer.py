"""The local map: true squares, nothing for strangers; in a real browser it drags, zooms and tells values."""

import base64
import http.client
import json
import os
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.io import MemoryFile

from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import BlockArrays, Mosaic, MosaicWriter, create_mosaic
from pipeline.raster.window import Window
from pipeline.report.viewer.layers import SQUARE_PX
from pipeline.report.viewer.server import Viewer, make_server
from pipeline.segment.executor import LocalExecutor
from pipeline.segment.overviews import OverviewWorker, create_overviews, rounds, tasks
from pipeline.storage import Folder
from tests.pipeline.report.browser import CHROMIUM, opened
from tests.pipeline.report.fabricated import COLORS, NAMES, layout

HEIGHT, WIDTH = 1100, 1500
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the map is NOT seen rendered")


def classes():
    rows, cols = np.indices((HEIGHT, WIDTH))
    labels = ((rows // 100 + cols // 100) % len(NAMES)).astype(np.uint8)
    labels[:40, :60] = 255
    return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A mosaic with overviews over a source that is wider: it begins at (24, 16) of it."""
    path = tmp_path_factory.mktemp("viewer")
    transform = Affine(10.0, 0, 500_000, 0, -10.0, 5_200_000)
    grid = Grid(HEIGHT, WIDTH, transform, CRS(32633).to_wkt())
    pixels = np.zeros((3, HEIGHT + 50, WIDTH + 50), np.uint8)
    pixels[:, 24 : 24 + HEIGHT, 16 : 16 + WIDTH] = classes() % 251 * 20 + 60
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "nodata": 0}
    with rasterio.open(path / "scene.tif", "w", height=HEIGHT + 50, width=WIDTH + 50, **profile) as target:
        target.write(pixels)
    source = {"source": {"bands": [1, 2, 3], "nodata": None}}
    made = layout(
        grid,
        sources=[{"url": str(path / "scene.tif")}],
        source_origin=[24, 16],
        settings=source,
        fingerprint="f",
    )
    mosaic = Folder.at(path / "land.zarr")
    create_mosaic(mosaic, made)
    create_overviews(mosaic, made)
    confidence = np.full((HEIGHT, WIDTH), 127, np.uint8)
    confidence[:40, :60] = 255
    MosaicWriter(mosaic, made).write(Window(0, 0, 2048, 2048), BlockArrays(classes(), confidence, None))
    for base in rounds(HEIGHT, WIDTH):
        LocalExecutor(1).run(
            lambda: OverviewWorker(mosaic, made),
            tasks(HEIGHT, WIDTH, base),
            lambda _: None,
            threading.Event(),
        )
    return path


@contextmanager
def served(viewer):
    server = make_server(viewer, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        viewer.close()


@pytest.fixture(scope="module")
def port(folder):
    mosaic = Mosaic.open(str(folder / "land.zarr"))
    with served(Viewer(mosaic, name="land <b>.zarr")) as number:
        yield number


def get(port, path, host="127.0.0.1"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def picture(port, path):
    answer, body = get(port, path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    with MemoryFile(body) as memory, memory.open() as data:
        values = data.read()
        return (
            np.array([data.colormap(1)[v] for v in values.ravel()]).reshape(*values.shape[1:], 4)
            if (len(values) == 1)
            else np.moveaxis(values, 0, -1)
        )


def colors(labels):
    palette = np.zeros((256, 4), np.uint8)
    for index, color in enumerate(COLORS):
        palette[index] = (*bytes.fromhex(color[1:]), 255)
    return palette[labels]


@pytest.mark.parametrize(("row", "col"), [(0, 0), (2, 3), (4, 5)])
def test_squares_at_full_size_are_the_mosaics_pixels(port, row, col):
    part = classes()[row * 256 : row * 256 + 256, col * 256 : col * 256 + 256]
    assert np.array_equal(picture(port, f"/classes/1/{row}/{col}.png"), colors(part))


def test_smaller_squares_come_from_overviews(folder, port):
    mosaic = Mosaic.open(str(folder / "land.zarr"))
    factor = mosaic.overview_factors()[-1]
    expected = colors(np.asarray(mosaic.array(f"overviews/{factor}/classes"))[:SQUARE_PX, :SQUARE_PX])
    assert np.array_equal(picture(port, f"/classes/{factor}/0/0.png"), expected)


def test_the_source_lies_where_the_mosaic_does(port):
    """Its shades change where the classes change, although it begins elsewhere."""
    seen = picture(port, "/source/1/1/1.png")
    labels = classes()[256:512, 256:512]
    for label in np.unique(labels):
        assert len(np.unique(seen[labels == label], axis=0)) == 1
    assert len(np.unique(seen.reshape(-1, 4), axis=0)) == len(np.unique(labels))


def test_a_value_is_the_pixels(port):
    value = json.loads(get(port, "/value/250/350")[1])
    assert value == {
        "row": 250,
        "col": 350,
        "x": 503_505.0,
        "y": 5_197_495.0,
        "class": NAMES[(2 + 3) % 4],
        "confidence": 0.5,
    }
    nothing = json.loads(get(port, "/value/5/5")[1])
    assert (nothing["class"], nothing["confidence"]) == (None, None)


@pytest.mark.parametrize(
    "path",
    [
        "/classes/1/9/0.png", "/classes/3/0/0.png", "/logits/1/0/0.png", "/value/5000/1", "/value/-1/1", "/x",
        "/../jobs/view.py", "/classes/1/0/0.png?x=1", "/classes/1/99999999999/0.png",
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(port, path):
    assert get(port, path)[0].status == 404


def test_another_sites_name_for_this_machine_is_turned_away(port):
    answer, body = get(port, "/", host="evil.example")
    assert answer.status == 403
    assert b"classes" not in body


def test_the_server_listens_on_loopback_only(folder):
    with unstarted(folder) as server:
        assert server.server_address[0] == "127.0.0.1"


@contextmanager
def unstarted(folder):
    viewer = Viewer(Mosaic.open(str(folder / "land.zarr")), name="x")
    server = make_server(viewer, 0)
    yield server
    server.server_close()
    viewer.close()


def test_names_from_the_mosaic_cannot_become_code(port):
    answer, body = get(port, "/")
    assert b"<b>" not in body
    assert b"&lt;b&gt;" in body
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_lost_source_is_said_and_the_rest_is_shown(folder):
    with served(
        Viewer(Mosaic.open(str(folder / "land.zarr")), name="x", source_url=str(folder / "no.tif"))
    ) as port:
        assert get(port, "/source/1/0/0.png")[0].status == 404
        assert get(port, "/classes/1/0/0.png")[0].status == 200
        assert b"The source cannot be read" in get(port, "/")[1]


def test_a_source_that_is_cut_off_meanwhile_is_said_and_the_map_goes_on(folder, tmp_path):
    scene = tmp_path / "scene.tif"
    scene.write_bytes((folder / "scene.tif").read_bytes())
    mosaic = Mosaic.open(str(folder / "land.zarr"))
    with served(Viewer(mosaic, name="land", source_url=str(scene))) as port:
        os.truncate(scene, scene.stat().st_size // 2)
        answer, told = get(port, "/source/1/4/0.png")
        assert answer.status == 502
        assert told.decode().startswith(f"cannot read {scene}: ")
        assert picture(port, "/classes/1/4/0.png").shape[2] == 4


def test_without_overviews_the_map_still_zooms_out(folder, tmp_path):
    mosaic = Mosaic.open(str(folder / "land.zarr"))
    bare = Folder.at(tmp_path / "bare.zarr")
    create_mosaic(bare, mosaic.layout)
    MosaicWriter(bare, mosaic.layout).write(
        Window(0, 0, 2048, 2048), BlockArrays(classes(), np.zeros((HEIGHT, WIDTH), np.uint8), None)
    )
    with served(Viewer(Mosaic.open(bare.url), name="bare")) as port:
        assert np.array_equal(picture(port, "/classes/8/0/0.png"), colors(classes()[::8, ::8]))


UNDER_THE_CURSOR = "(500 - innerWidth / 2) / terrazzo.view.zoom + terrazzo.view.col"


@in_browser
def test_in_a_browser_it_drags_zooms_and_tells_values(port, tmp_path):
    with opened(f"http://127.0.0.1:{port}/", tmp_path / "profile") as tab:
        tab.wait_for("window.terrazzo && [...terrazzo.squares.values()].length > 0")
        tab.wait_for("[...terrazzo.squares.values()].every(square => square.ready)")
        start = tab.run("({...terrazzo.view})")
        right = tab.run("(terrazzo.facts.width - terrazzo.view.col) * terrazzo.view.zoom + innerWidth / 2")
        panel = tab.run("document.getElementById('panel').getBoundingClientRect().left")
        assert right <= panel  # nothing of the mosaic hides behind it
        tab.drag((300, 300), (420, 380))
        moved = tab.run("({...terrazzo.view})")
        assert moved["col"] == pytest.approx(start["col"] - 120 / start["zoom"], abs=1)
        assert moved["row"] == pytest.approx(start["row"] - 80 / start["zoom"], abs=1)

        before = tab.run(UNDER_THE_CURSOR)
        tab.mouse("mouseWheel", 500, 350, deltaX=0, deltaY=-800)
        tab.wait_for(f"terrazzo.view.zoom > 2 * {moved['zoom']}")
        after = tab.run(UNDER_THE_CURSOR)
        assert after == pytest.approx(before, abs=1)  # what lies under the cursor stays there

        tab.click("#all")
        tab.wait_for(f"Math.abs(terrazzo.view.zoom - {start['zoom']}) < 1e-6")
        x, y = tab.run("[(350.5 - terrazzo.view.col) * terrazzo.view.zoom + innerWidth / 2,"
                       " (250.5 - terrazzo.view.row) * terrazzo.view.zoom + innerHeight / 2]")  # fmt: skip
        tab.mouse("mouseMoved", x, y)
        tab.wait_for("document.getElementById('value').textContent.includes('row 250, column 350')")
        assert tab.run("document.getElementById('value').textContent").startswith(
            f"{NAMES[1]}, confidence 0.500"
        )

        tab.click("input[value=confidence]")
        tab.wait_for("[...terrazzo.squares.keys()].some(address => address.startsWith('/confidence/'))")
        tab.run("document.getElementById('map').focus()")
        tab.ask("Input.dispatchKeyEvent", type="keyDown", key="+", text="+")
        tab.wait_for(f"terrazzo.view.zoom > 1.2 * {start['zoom']}")
        assert tab.complaints == []
        outside = [
            url
            for url in tab.requests
            if not url.startswith((f"http://127.0.0.1:{port}/", "data:", "about:"))
        ]
        assert outside == []


@in_browser
def test_in_a_browser_the_colours_of_the_map_are_the_legends(port, tmp_path):
    with opened(f"http://127.0.0.1:{port}/", tmp_path / "profile") as tab:
        tab.wait_for("window.terrazzo && [...terrazzo.squares.values()].length > 0")
        tab.run("document.getElementById('source').click()")
        tab.run("Object.assign(terrazzo.view, {row: 250, col: 350, zoom: 4})")
        tab.click("#in")
        tab.wait_for("[...terrazzo.squares.values()].every(square => square.ready)")
        tab.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shot = Path(tmp_path / "map.png")
        shot.write_bytes(base64.b64decode(tab.ask("Page.captureScreenshot", format="png")["data"]))
        with rasterio.open(shot) as data:
            pixel = data.read()[:3, data.height // 2, data.width // 2]
        assert tuple(pixel) == tuple(bytes.fromhex(COLORS[1][1:]))
