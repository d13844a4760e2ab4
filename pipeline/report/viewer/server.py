"""The map's server: loopback only, nothing but the page, its squares and single values."""

import json
import re
import sys
from functools import partial
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import Any

from pipeline.errors import StorageError
from pipeline.raster.mosaic import Mosaic
from pipeline.report.ground import Ground
from pipeline.report.pictures import CONFIDENCE_RAMP, safe_color
from pipeline.report.viewer.layers import SQUARE_PX, MosaicLayers, SourceLayer, source_layer

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
SQUARE = re.compile(r"/(classes|confidence|source)/(\d{1,6})/(\d{1,8})/(\d{1,8})\.png")
VALUE = re.compile(r"/value/(\d{1,9})/(\d{1,9})")
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'"
)
HERE = Path(__file__).parent


class Viewer:
    """A mosaic made ready to be looked at."""

    def __init__(self, mosaic: Mosaic, *, name: str, source_url: str | None = None) -> None:
        self.layers = MosaicLayers(mosaic)
        found = source_layer(mosaic, source_url)
        self.source = found if isinstance(found, SourceLayer) else None
        self._facts = self._describe(mosaic, name, "" if self.source else str(found))

    def page(self) -> bytes:
        """The whole map as one page that asks nobody but this server."""
        facts = json.dumps(self._facts).replace("<", "\\u003c")  # no text of the mosaic's ends the script
        template = Template((HERE / "viewer.html").read_text(encoding="utf-8"))
        return template.substitute(
            title=escape(self._facts["name"]),
            style=(HERE / "viewer.css").read_text(encoding="utf-8"),
            facts=facts,
            script=(HERE / "viewer.js").read_text(encoding="utf-8"),
        ).encode()

    def square(self, layer: str, factor: int, row: int, col: int) -> bytes | None:
        """A square of a layer as PNG; None where there is none."""
        if factor not in self.layers.factors:
            return None
        if layer == "source":
            return self.source.square(factor, row, col) if self.source else None
        return self.layers.square(layer, factor, row, col)

    def close(self) -> None:
        """Let go of the source."""
        if self.source is not None:
            self.source.close()

    def _describe(self, mosaic: Mosaic, name: str, no_source: str) -> dict[str, Any]:
        layout, grid = mosaic.layout, mosaic.grid
        width_m = Ground.under(grid, mosaic.attributes).width_m()
        return {
            "name": name,
            "height": grid.height,
            "width": grid.width,
            "factors": self.layers.factors,
            "square_px": SQUARE_PX,
            "pixel_m": None if width_m is None else width_m / grid.width,
            "classes": [
                {"name": class_name, "color": safe_color(color)}
                for class_name, color in zip(layout.class_names, layout.class_colors, strict=True)
            ],
            "ramp": list(CONFIDENCE_RAMP),
            "no_source": no_source,
        }


class _Handler(BaseHTTPRequestHandler):
    """Answers a browser on this machine."""

    protocol_version = "HTTP/1.1"

    def __init__(self, viewer: Viewer, *arguments: Any) -> None:  # noqa: ANN401 - http.server's own
        self._viewer = viewer
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """A page, a square or a value."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in HOSTS:  # another site's name may point here, to read what is not its own
            self._answer(HTTPStatus.FORBIDDEN, b"only by way of localhost", "text/plain")
            return
        try:
            kind, body = self._find(self.path)
        except StorageError as error:
            self._answer(HTTPStatus.BAD_GATEWAY, str(error).encode(), "text/plain")
            return
        if body is None:
            self._answer(HTTPStatus.NOT_FOUND, b"there is nothing here", "text/plain")
        else:
            self._answer(HTTPStatus.OK, body, kind)

    def _find(self, path: str) -> tuple[str, bytes | None]:
        if path == "/":
            return "text/html; charset=utf-8", self._viewer.page()
        if square := SQUARE.fullmatch(path):
            layer, factor, row, col = square.groups()
            return "image/png", self._viewer.square(layer, int(factor), int(row), int(col))
        if place := VALUE.fullmatch(path):
            value = self._viewer.layers.value(int(place[1]), int(place[2]))
            return "application/json", None if value is None else json.dumps(value).encode()
        return "text/plain", None

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "max-age=300" if kind == "image/png" else "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002, ANN401
        """Every square of a map is too much to be told."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - socketserver's own
        """A browser that moved on before its answer came is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def make_server(viewer: Viewer, port: int) -> ThreadingHTTPServer:
    """A server on this machine's own address; port 0 is any that is free."""
    return _Server((LOOPBACK, port), partial(_Handler, viewer))
