"""Outputs name their program, installed or not."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from pipeline.software import software


def test_an_installed_program_knows_its_version() -> None:
    assert software() == f"terrazzo {version('terrazzo')}"


def test_a_submitted_directory_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("pipeline.software.version", unknown)
    assert software() == "terrazzo, not installed"
