"""REFERENCE.md is what the jobs accept today."""

import argparse
from pathlib import Path

import pytest

from jobs.reference import job_names, parser_of, reference

PAGE = Path(__file__).resolve().parents[2] / "jobs" / "configs" / "REFERENCE.md"


@pytest.fixture(scope="module")
def text():
    return reference()


def test_the_page_is_current(text):
    assert PAGE.read_text() == text, "run: python jobs/reference.py > jobs/configs/REFERENCE.md"


def test_every_job_and_contract_is_on_it(text):
    for job in job_names():
        assert f"## jobs/{job}.py" in text
    for name in (
        "--plan",
        "--each",
        "`source.urls`",
        "`inference.precision`",
        "`train.max_minutes`",
        "--dry-run",
    ):
        assert name in text


def test_every_setting_says_what_it_means(text):
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    for row in rows:
        assert row.rstrip("| ").count("|") >= 2, row
        assert row.split("|")[-2].strip(), f"no meaning: {row}"


@pytest.mark.parametrize("job", job_names())
def test_flags_are_never_abbreviated(job):
    """A flag added later would change what a script's short form means."""
    parser = parser_of(job)
    commands = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    parsers = [parser, *(command for one in commands for command in one.choices.values())]
    assert [one.prog for one in parsers if one.allow_abbrev] == []


def test_settings_that_the_model_library_explains_are_explained(text):
    assert "| `multi_grid` | `null` | Factors on the dilation of each unit of the last ResNet stage" in text
