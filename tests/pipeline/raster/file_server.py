"""Files over real HTTP: ranges, and a log of what was asked for.

Run as a program with a folder. ``/requests`` lists every request so far as method, path
and who asked (GDAL or obstore). A file with another beside it that is called like it and
``.unavailable`` is answered by 503.
"""

import json
import re
import sys
from contextlib import AbstractContextManager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.pipeline.raster.server_process import process_of, serve


class Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.serve(with_body=False)

    def do_GET(self):
        if self.path == "/requests":
            return self.answer(200, json.dumps(self.server.log).encode(), {})
        return self.serve(with_body=True)

    def serve(self, *, with_body):
        path = unquote(urlsplit(self.path).path)
        by_gdal = "GDAL" in self.headers.get("User-Agent", "")
        self.server.log.append([self.command, path, "gdal" if by_gdal else "obstore"])
        file = self.server.folder / path.lstrip("/")
        if file.with_name(f"{file.name}.unavailable").is_file():
            return self.answer(503, b"", {}, with_body=with_body)
        if not file.is_file():
            return self.answer(404, b"", {})
        data, stat = file.read_bytes(), file.stat()
        headers = {
            "ETag": f'"{stat.st_mtime_ns}"',
            "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or not with_body:
            return self.answer(200, data, headers, with_body=with_body)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first >= len(data):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self.answer(206, data[first : last + 1], headers)

    def answer(self, status, data, headers, *, with_body=True):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def log_message(self, *_):
        """Silence: pytest shows enough."""


def served(folder: Path) -> AbstractContextManager[str]:
    """The address at which a folder's files are."""
    return process_of(__name__, str(folder))


if __name__ == "__main__":
    serve(Files, folder=Path(sys.argv[1]), log=[])
