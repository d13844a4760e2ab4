"""List the versions of a nightly product, and give readers an older one back.

python jobs/nightly_versions.py --product s3://bucket/land-cover
python jobs/nightly_versions.py --product s3://bucket/land-cover --restore v-0123456789abcdef
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_bare_parser, run_job
from pipeline.segment.nightly.restore import find_product, list_versions, restore


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_bare_parser("List the versions of a nightly product, and give readers an older one back.")
    parser.add_argument(
        "--product", required=True, metavar="URL", help="output.url of the nightly run, or its latest.json"
    )
    parser.add_argument("--restore", metavar="VERSION", help="switch latest.json to this version, if whole")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is the report, as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, look or switch, tell."""
    options = parse(arguments)

    def job() -> dict[str, Any]:
        product, published = find_product(options.product)
        if options.restore:
            restore(product, published, options.restore)
            product, published = find_product(options.product)
        versions = list_versions(product, published)
        if not options.json:
            for one in versions:
                sys.stdout.write(f"{one['version']}  begun {one['begun']}  {one['state']}\n")
        return {"status": "complete", "latest": published.pointer.version, "versions": versions}

    return run_job(job, as_json=options.json, traceback_folder=lambda: None)


if __name__ == "__main__":
    sys.exit(main())
