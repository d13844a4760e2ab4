"""Every flag and setting of every job as Markdown: what jobs/configs/REFERENCE.md holds.

python jobs/reference.py > jobs/configs/REFERENCE.md
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from pydantic import BaseModel

from jobs.command_line import EXIT_HELP, JobParser
from pipeline.settings import default_text, setting_names

NO_JOBS = ("__init__", "command_line", "reference")

HEAD = """# Every flag and setting

Written by `python jobs/reference.py`; a test holds it to the code. Settings stand in the file that `--config`
names, as YAML or JSON, or are given one by one: `--set inference.flips=[h]`. Flags win over `--set`, which
wins over the file. An unknown name is refused with the nearest valid one.
"""


class _Parser(Exception):
    """Carries a job's parser out of the job."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def job_names() -> list[str]:
    """Every job beside this file."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NO_JOBS)


def reference() -> str:
    """The whole page."""
    sections = [_section(name, parser_of(name)) for name in job_names()]
    return "\n".join([HEAD, "```text", EXIT_HELP, "```", "", *sections])


def parser_of(job: str) -> argparse.ArgumentParser:
    """A job's parser, taken at the moment when the job would use it."""
    module = importlib.import_module(f"jobs.{job}")
    with _caught_parsers():
        try:
            module.main([])
        except _Parser as found:
            return found.parser
    raise RuntimeError(f"jobs/{job}.py must parse its arguments in main()")


@contextmanager
def _caught_parsers() -> Iterator[None]:
    def give(self: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        raise _Parser(self)

    original = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = give  # type: ignore[method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]


def _section(job: str, parser: argparse.ArgumentParser) -> str:
    lines = [f"## jobs/{job}.py", "", (parser.description or "").strip(), ""]
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    if not commands:
        return "\n".join([*lines, *_tables(parser)])
    for action in commands:
        for name, command in action.choices.items():
            lines += [f"### {job}.py {name}", "", (command.description or "").strip(), "", *_tables(command)]
    return "\n".join(lines)


def _tables(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from ("| flag | meaning |", "|---|---|")
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of its flags
        if not isinstance(action, argparse._HelpAction):  # noqa: SLF001
            yield f"| {_flag(action)} | {_cell(action.help or '')} |"
    yield ""
    settings = parser.settings if isinstance(parser, JobParser) else None
    if settings is not None:
        yield from _settings(settings)


def _flag(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or action.dest
    if action.choices is not None:
        value = "|".join(str(choice) for choice in action.choices)
    elif action.nargs == 0:
        value = ""
    else:
        value = str(action.metavar or action.dest.upper()) if action.option_strings else ""
    return _code(f"{name} {value}".strip())


def _settings(settings: type[BaseModel]) -> Iterator[str]:
    yield from ("| setting | default | meaning |", "|---|---|---|")
    for name, field in setting_names(settings):
        yield f"| {_code(name)} | {_code(default_text(field))} | {_cell(field.description or '')} |"
    yield ""


def _code(text: str) -> str:
    return "`" + _cell(text) + "`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    sys.stdout.write(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
