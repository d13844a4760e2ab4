"""A small STAC API over real HTTP: pages of items, searched by POST or GET.

Run as a program with a folder of items (``*.json``) and a page size. It answers ``collections``, ``bbox``,
``datetime`` (an interval) and a maximum cloud cover, and lists its requests at ``/requests``.
"""

import json
import sys
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.pipeline.raster.server_process import process_of, serve

CONFORMS_TO = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#query",
]


def wanted(item, search):
    properties, box = item["properties"], item["bbox"]
    if search.get("collections") and item["collection"] not in search["collections"]:
        return False
    if search.get("bbox"):
        west, south, east, north = search["bbox"]
        if box[0] > east or box[2] < west or box[1] > north or box[3] < south:
            return False
    if search.get("datetime"):
        first, _, last = search["datetime"].partition("/")
        if not first <= properties["datetime"] <= last:
            return False
    limit = search.get("query", {}).get("eo:cloud_cover", {}).get("lte")
    return limit is None or properties["eo:cloud_cover"] <= limit


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urlsplit(self.path)
        if path.path == "/requests":
            return self.answer(self.server.log)
        self.server.log.append(f"GET {path.path}")
        if path.path == "/":
            return self.answer(self.landing_page())
        if path.path == "/broken":
            return self.answer({"code": "Oops", "description": "no such thing"}, status=500)
        if path.path == "/search":
            given = {name: values[0] for name, values in parse_qs(path.query).items()}
            return self.search({"limit": int(given.get("limit", 10)), "token": given.get("token")})
        return self.answer({"code": "NotFound", "description": self.path}, status=404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.log.append(f"POST {self.path} {sorted(body)}")
        return self.search(body)

    def search(self, body):
        """A page; the page size is the server's own however much is asked for."""
        found = [item for item in self.server.items if wanted(item, body)]
        start, size = int(body.get("token") or 0), min(self.server.page, body.get("limit", 10))
        links = []
        if start + size < len(found):
            following = body | {"token": str(start + size)}
            links.append(
                {"rel": "next", "method": "POST", "href": f"{self.root}/search", "body": following,
                 "type": "application/geo+json"}
            )  # fmt: skip
        return self.answer(
            {"type": "FeatureCollection", "features": found[start : start + size], "links": links}
        )

    @property
    def root(self):
        return f"http://{self.headers['Host']}"

    def landing_page(self):
        search = {"rel": "search", "href": f"{self.root}/search", "type": "application/geo+json"}
        return {
            "type": "Catalog", "stac_version": "1.0.0", "id": "tests", "description": "scenes of the tests",
            "conformsTo": CONFORMS_TO,
            "links": [
                {"rel": "self", "href": f"{self.root}/", "type": "application/json"},
                {"rel": "root", "href": f"{self.root}/", "type": "application/json"},
                search | {"method": "POST"},
                search | {"method": "GET"},
            ],
        }  # fmt: skip

    def answer(self, document, status=200):
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Silence: pytest shows enough."""


def served(items: Path, *, page: int) -> AbstractContextManager[str]:
    """The address of an API of the items in a folder, so many on a page."""
    return process_of(__name__, str(items), str(page))


if __name__ == "__main__":
    items = [json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("*.json"))]
    serve(Api, items=items, page=int(sys.argv[2]), log=[])
