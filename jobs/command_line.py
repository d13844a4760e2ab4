"""What all jobs share: flags, settings, exit codes, and where a traceback goes."""

import argparse
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from pipeline.errors import Interrupted, Refused, TerrazzoError
from pipeline.settings import describe_settings
from pipeline.storage import Folder, redact

Config = TypeVar("Config", bound=BaseModel)

EXIT_COMPLETE = 0
EXIT_INCOMPLETE = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 3
EXIT_FAULT = 70

EXIT_CODES = {
    "complete": EXIT_COMPLETE,
    "incomplete": EXIT_INCOMPLETE,
    "refused": EXIT_REFUSED,
    "interrupted": EXIT_INTERRUPTED,
}

EXIT_HELP = """exit codes:
  0 complete    1 finished, but something failed    2 refused: nothing was changed
  3 interrupted: start again to go on    70 a fault of ours: the traceback is stored beside the output"""


class JobParser(argparse.ArgumentParser):
    """A command line, and the settings that a file fills where the job takes one."""

    settings: type[BaseModel] | None = None


def make_bare_parser(description: str, settings: type[BaseModel] | None = None) -> JobParser:
    """A parser without flags; its help text lists every setting, and what exit codes mean."""
    about = [describe_settings(settings)] if settings else []
    parser = JobParser(
        description=description,
        epilog="\n\n".join([*about, EXIT_HELP]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a flag added later must not change what a script's short form means
    )
    parser.settings = settings
    return parser


def make_parser(description: str, settings: type[BaseModel]) -> JobParser:
    """A parser with the flags that every job with settings has."""
    parser = make_bare_parser(description, settings)
    parser.add_argument("--config", metavar="FILE-OR-URL", help="settings as YAML or JSON")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting by its dotted name; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="the last line of stdout is the report, as JSON")
    return parser


def run_job(
    job: Callable[[], dict[str, Any]], *, as_json: bool, traceback_folder: Callable[[], str | None]
) -> int:
    """Run a job to its report, its exit code and, where it fails, one clear message.

    Args:
        job: Gives a report with a ``status``.
        as_json: Whether the report is printed on stdout.
        traceback_folder: Where the traceback of a fault goes; None for the terminal, if even that is unknown.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        report = job()
    except Refused as error:
        return _fail("refused", str(error), as_json=as_json)
    except (Interrupted, KeyboardInterrupt) as error:
        return _fail("interrupted", str(error) or "stopped; start again to go on", as_json=as_json)
    except TerrazzoError as error:
        return _fail("incomplete", str(error), as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last resort: every other error is a fault of ours
        where = _keep_traceback(traceback_folder())
        message = f"a fault of ours ({type(error).__name__}): {error}; {where}"
        _fail("fault", message, as_json=as_json)
        return EXIT_FAULT
    if as_json:
        print_json(report)
    return EXIT_CODES[report["status"]]


def run_with_config(
    options: argparse.Namespace,
    load: Callable[[argparse.Namespace], Config],
    work: Callable[[Config], dict[str, Any]],
    *,
    tell: Callable[[dict[str, Any]], str],
    traceback_folder: Callable[[Config], str | None],
) -> int:
    """Run a job of one config: load it, do the work, tell in words or as JSON.

    Args:
        options: The command line.
        load: Gives the settings.
        work: Gives a report with a ``status``.
        tell: The report in words.
        traceback_folder: Where the traceback of a fault goes; None for the terminal.
    """
    loaded: list[Config] = []

    def job() -> dict[str, Any]:
        loaded.append(load(options))
        report = work(loaded[0])
        if not options.json:
            sys.stdout.write(tell(report))
        return report

    return run_job(
        job, as_json=options.json, traceback_folder=lambda: traceback_folder(loaded[0]) if loaded else None
    )


def print_json(document: Mapping[str, Any]) -> None:
    """One line on stdout, for programs."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _fail(status: str, message: str, *, as_json: bool) -> int:
    sys.stderr.write(f"{status}: {message}\n")
    if as_json:
        print_json({"status": status, "error": message})
    return EXIT_CODES.get(status, EXIT_FAULT)


def _keep_traceback(url: str | None) -> str:
    """Store the traceback beside the output; the terminal is spared it unless there is no such place."""
    text = traceback.format_exc()
    if url is None:
        sys.stderr.write(text)
        return "the traceback is above"
    name = f"fault-{time.strftime('%Y%m%dT%H%M%S')}.txt"
    try:
        Folder.at(url).write(name, text.encode())
    except TerrazzoError as error:
        sys.stderr.write(text)
        return f"the traceback is above, since it could not be stored ({error})"
    return f"the traceback is in {redact(url)}/{name}"
