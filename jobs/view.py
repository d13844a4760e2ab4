"""Look at a mosaic in the browser of this machine: a map to zoom and drag, served from its overviews.

python jobs/view.py --mosaic scene.zarr
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_bare_parser, run_job
from pipeline.errors import SettingsError
from pipeline.latest import resolve_latest
from pipeline.raster.mosaic import Mosaic
from pipeline.report.viewer.server import Viewer, make_server
from pipeline.signals import handled
from pipeline.storage import redact


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_bare_parser("Serve a zoomable map of a mosaic to this machine's browser, until Ctrl+C.")
    parser.add_argument("--mosaic", required=True, metavar="URL", help="mosaic, or a product's latest.json")
    parser.add_argument("--source", metavar="URL", help="raster to show below; else what it was made from")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port of 127.0.0.1; 0: any free one")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted, by Ctrl+C or SIGTERM; being interrupted is how it ends."""
    options = parse(arguments)

    def job() -> dict[str, Any]:
        url = resolve_latest(options.mosaic)
        viewer = Viewer(Mosaic.open(url), name=redact(url).rsplit("/", 1)[-1], source_url=options.source)
        with closing(viewer), _server(viewer, options.port) as server:
            try:
                with handled([signal.SIGTERM], signal.default_int_handler):
                    sys.stdout.write(f"http://127.0.0.1:{server.server_port}/\n")
                    sys.stdout.flush()
                    server.serve_forever()
            except KeyboardInterrupt:
                sys.stderr.write("\n")
        return {"status": "complete"}

    return run_job(job, as_json=False, traceback_folder=lambda: None)


def _server(viewer: Viewer, port: int) -> ThreadingHTTPServer:
    try:
        return make_server(viewer, port)
    except (OSError, OverflowError) as error:
        raise SettingsError(f"--port must be a free port of this machine, got {port}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
