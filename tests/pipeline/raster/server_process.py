"""HTTP servers of tests, each in a process: GDAL asks while rasterio holds the interpreter's lock."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]


@contextmanager
def process_of(module: str, *arguments: str) -> Iterator[str]:
    """The address of a server that a module starts when it is run."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield server.stdout.readline().strip()
        server.stdin.close()


def serve(handler: type[BaseHTTPRequestHandler], **state: Any) -> None:
    """Say where, and serve until the standard input ends; handlers find ``state`` on their server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    vars(server).update(state)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.shutdown()
