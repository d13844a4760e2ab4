"""One mosaic for every source: which sources, and one word for all of them."""

import pytest

from pipeline.config import RunConfig
from pipeline.errors import MismatchError, SettingsError
from pipeline.segment.each import one_config_each, run_each


def config_of(*urls, output="out/{stem}.zarr", **source):
    return RunConfig.model_validate(
        {"source": {"urls": urls} | source, "model": {"url": "model"}, "output": {"url": output}}
    )


def test_a_pattern_stands_for_every_file_it_names(tmp_path):
    for name in ("b.tif", "a.tif", "notes.txt"):
        (tmp_path / name).touch()
    configs = one_config_each(config_of(f"{tmp_path}/*.tif", "elsewhere/c.tif"))
    assert [config.output.url for config in configs] == ["out/a.zarr", "out/b.zarr", "out/c.zarr"]
    assert [config.source.urls for config in configs] == [
        (f"{tmp_path}/a.tif",), (f"{tmp_path}/b.tif",), ("elsewhere/c.tif",),
    ]  # fmt: skip


def test_a_pattern_that_names_nothing_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"must name files, but .* names none"):
        one_config_each(config_of(f"{tmp_path}/*.tif"))


def test_what_would_share_an_output_is_refused():
    with pytest.raises(SettingsError, match="different names, got scene twice"):
        one_config_each(config_of("a/scene.tif", "b/scene.tif"))
    with pytest.raises(SettingsError, match=r"must hold \{stem\}"):
        one_config_each(config_of("a.tif", output="out.zarr"))


def run_all(*outcomes):
    """Reports of runs that end like this, and how many were begun."""
    begun = []

    def run(config):
        begun.append(config.source.name)
        outcome = outcomes[len(begun) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return {"status": outcome}

    configs = one_config_each(config_of(*[f"{index}.tif" for index in range(len(outcomes))]))
    return run_each(configs, run), len(begun)


@pytest.mark.parametrize(
    ("outcomes", "together", "begun"),
    [
        (("complete", "complete"), "complete", 2),
        (("complete", "incomplete", "complete"), "incomplete", 3),
        (("interrupted", "complete"), "interrupted", 1),
        (("complete", "interrupted", "complete"), "interrupted", 2),
        ((SettingsError("too small"), "complete"), "incomplete", 2),
        ((SettingsError("too small"), MismatchError("another model")), "refused", 2),
    ],
)
def test_one_word_for_all_and_a_signal_ends_them_all(outcomes, together, begun):
    report, number = run_all(*outcomes)
    assert (report["status"], number) == (together, begun)
    assert len(report["reports"]) == begun


def test_what_is_refused_is_told_and_stops_no_other():
    report, _ = run_all(SettingsError("too small"), "complete")
    assert report["reports"] == [
        {"status": "refused", "error": "too small", "output": "out/0.zarr"},
        {"status": "complete"},
    ]


def test_a_fault_of_ours_is_not_taken_for_a_refusal():
    with pytest.raises(ZeroDivisionError):
        run_all(ZeroDivisionError("a slip"), "complete")
