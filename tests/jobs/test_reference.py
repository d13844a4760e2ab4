"""REFERENCE.md is what the jobs accept today."""

from pathlib import Path

import pytest

from jobs.reference import job_names, reference

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
