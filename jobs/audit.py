"""Read a mosaic's store again and compare it with its ledger: is it whole, and is it what was written?

python jobs/audit.py --mosaic URL
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed

from jobs.command_line import make_bare_parser, run_job
from pipeline.latest import resolve_latest
from pipeline.segment.audit import audit_stored


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_bare_parser("Audit a mosaic: every block stored, every object what its writer wrote.")
    parser.add_argument(
        "--mosaic",
        required=True,
        metavar="URL",
        help="the mosaic, .run folder beside it, or a latest.json",
    )
    parser.add_argument("--json", action="store_true", help="the last line of stdout is the result, as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, look, tell."""
    options = parse(arguments)

    def job() -> dict[str, Any]:
        found = audit_stored(resolve_latest(options.mosaic))
        for fault in found.lines():
            sys.stderr.write(f"{fault}\n")
        if not options.json:
            sys.stdout.write(f"{'whole' if found.is_complete else 'faulty'}: {found.objects} objects read\n")
        return {
            "status": "complete" if found.is_complete else "incomplete",
            "objects": found.objects,
            "faults": list(found.lines()),
        }

    return run_job(job, as_json=options.json, traceback_folder=lambda: None)


if __name__ == "__main__":
    sys.exit(main())
