"""The plan as people read it."""

import pytest

from pipeline.segment.plan_table import in_units, plan_table

DOCUMENT = {
    "fingerprint": "0123456789abcdef",
    "choices": {"precision": "bf16", "batch": 4, "compile": True, "device": "cuda"},
    "workers": {"count": 8, "threads": 3, "gpus": 0.5},
    "source": {"height": 40_000, "width": 30_000},
    "grid": {"height": 39_936, "width": 29_952},
    "block": {"size_px": 2048},
    "blocks": 120,
    "crops": {"computed": 12_345, "unique": 7_178, "ratio": 1.7198},
    "skipped": {"blocks_outside_region": 180},
    "read_bytes": 5 << 30,
    "read_at_least_bytes": 3 << 30,
    "output_at_most_bytes": 1536 << 20,
    "memory_per_worker": {"total_bytes": 2_750 << 20},
    "memory_limit_bytes": 4 << 30,
    "multiply_adds": 891_309_000_000_000,
    "estimated_seconds": None,
    "output": "s3://bucket/mosaic.zarr",
}


def rows_of(document):
    return {
        line.split("  ")[0].strip(): line.split("  ", 1)[1].strip()
        for line in plan_table(document).split("\n")
    }


def test_every_number_of_the_plan_is_in_the_table():
    rows = rows_of(DOCUMENT)
    assert rows["source"] == "40000 × 30000 px"
    assert rows["mosaic"] == "39936 × 29952 px → s3://bucket/mosaic.zarr"
    assert rows["blocks"] == "120 of 2048 px, 180 outside the region skipped"
    assert rows["crops"] == "12,345 computed, 7,178 unique, ratio 1.720"
    assert rows["network"] == "bf16, batch 4, compiled, on cuda"
    assert rows["work"] == "891.31 T multiply-adds"
    assert rows["workers"] == "8 × 3 threads, 0.5 GPUs each"
    assert rows["memory"] == "2.69 GiB projected per worker, limit 4.00 GiB"
    assert rows["to read"] == "5.00 GiB uncompressed, 3.00 GiB without overlap"
    assert rows["to write"] == "at most 1.50 GiB"
    assert rows["fingerprint"] == "0123456789abcdef"


def test_a_time_is_given_only_once_it_is_known():
    assert "not known" in rows_of(DOCUMENT)["time"]
    assert rows_of(DOCUMENT | {"estimated_seconds": 90.0})["time"] == "about 1.5 min"
    assert rows_of(DOCUMENT | {"estimated_seconds": 0.0})["time"] == "about 0.0 min"


def test_an_eager_network_is_said_to_be_eager():
    choices = DOCUMENT["choices"] | {"compile": False}
    assert "not compiled" in rows_of(DOCUMENT | {"choices": choices})["network"]


def test_reasons_are_told_where_the_plan_has_them():
    assert not {"precision", "compile"} & rows_of(DOCUMENT).keys()
    reasons = {"precision": "auto: the GPUs here compute in bf16", "compile": "as the settings say"}
    rows = rows_of(DOCUMENT | {"reasons": reasons})
    assert rows["precision"] == "bf16; auto: the GPUs here compute in bf16"
    assert rows["compile"] == "yes; as the settings say"


def test_values_stand_in_one_column():
    starts = {len(line) - len(line[13:].lstrip()) for line in plan_table(DOCUMENT).split("\n")}
    assert starts == {13}


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (1 << 20, "1.00 MiB"),
        (5 * 10**9, "4.66 GiB"),
        (1 << 40, "1.00 TiB"),
        (1 << 50, "1.00 PiB"),
        (1 << 62, "4096.00 PiB"),
    ],
)
def test_bytes_are_said_in_the_largest_unit_that_fits(size_bytes, shown):
    assert in_units(size_bytes) == shown
