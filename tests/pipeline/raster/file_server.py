"""Files over real HTTP, in a process of its own: ranges, and a log of what was asked for.

Run as a script: a folder; it prints its address and serves until its standard input ends. ``/requests`` lists
every request so far as method, path and who asked (GDAL or obstore).
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


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


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder's files are; a process apart, since GDAL holds the interpreter's lock."""
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().strip()
        server.stdin.close()


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.folder, server.log = Path(sys.argv[1]), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
