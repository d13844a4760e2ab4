"""A run before it runs: inspected, planned, priced and named by its fingerprint."""

import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deeplab_core.symmetry import symmetries
from pipeline.config import RunConfig
from pipeline.errors import SettingsError
from pipeline.raster.mosaic import MosaicLayout
from pipeline.raster.source import Identity
from pipeline.segment.cost import Memory, NetworkCost, Numbers, network_cost, plan_bytes
from pipeline.segment.engine import EngineSettings
from pipeline.segment.inspect import Inspection, check_crops, inspect
from pipeline.segment.lattice import Lattice
from pipeline.segment.ledger import PLAN_FORMAT, Ledger, fingerprint
from pipeline.segment.plan import Plan
from pipeline.segment.reasons import reasons
from pipeline.segment.resolve import (
    VALUE_BYTES,
    Choices,
    Machine,
    Workers,
    check_int8,
    check_memory,
    choices_to_json,
    choose,
    share_out,
)
from pipeline.segment.worker import NetworkSpec, SegmentSpec
from pipeline.software import software
from pipeline.storage import Folder, redact

RESULT_VERSION = 1
"""Raised when the same inputs and settings begin to give other bytes."""


@dataclass(frozen=True)
class PlannedRun:
    """Everything about a run that is known before it starts."""

    config: RunConfig
    inspection: Inspection
    network: NetworkCost
    numbers: Numbers
    workers: Workers
    choices: Choices
    plan: Plan
    memory: Memory
    run_id: str
    reasons: Mapping[str, str]

    @property
    def output(self) -> Folder:
        """Where the mosaic goes."""
        return Folder.at(self.config.output.url)

    @property
    def ledger(self) -> Ledger:
        """What is kept beside it."""
        return Ledger.beside(self.config.output.url)

    @property
    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything that the result depends on, by name."""
        config, inspection, region = self.config, self.inspection, self.inspection.region
        return {
            "result_version": RESULT_VERSION,
            "model": {"sha256": inspection.model.sha256},
            "source": {
                "files": [_without_url(identity) for identity in inspection.source.identities],
                "grid": inspection.source.grid.to_json(),
                **inspection.spec.result_fields(),
                "gain": list(inspection.gain),
                "bias": list(inspection.bias),
            },
            "region": {
                "window": [region.box.row, region.box.col, region.box.height, region.box.width],
                "polygons": fingerprint({"wkb": region.polygons_wkb.hex()}) if region.polygons_wkb else None,
            },
            "crop": config.crop.model_dump(mode="json"),
            "blend": config.blend.model_dump(mode="json"),
            "inference": {
                "scales": list(config.inference.scales),
                "flips": sorted(config.inference.flips),
                "fuse": config.inference.fuse,
                "precision": self.choices.precision,
                "compile": self.choices.compile,
                "device": self.choices.device,
            },
            "block": {"size_px": self.choices.block_px},
            "compute": {"threads_per_worker": self.choices.threads},
            "output": {"logits": config.output.logits},
        }

    @property
    def fingerprint(self) -> str:
        """One short name for all of that."""
        return fingerprint(self.fingerprint_fields)

    @property
    def layout(self) -> MosaicLayout:
        """The mosaic's arrays and what they say of themselves."""
        inspection, model = self.inspection, self.inspection.model
        return MosaicLayout(
            grid=self.plan.mosaic_grid(inspection.source.grid),
            class_names=model.classes,
            class_colors=tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in model.colors),
            logits=self.config.output.logits,
            node_px=self.network.node_px,
            stack=inspection.source.stack,
            is_microscopy=inspection.source.is_microscopy,
            attributes={
                "model": {
                    "url": redact(inspection.model_folder.url),
                    "version": inspection.model_version,
                    "sha256": model.sha256,
                    "arch": model.config.arch,
                    "backbone": model.config.backbone,
                    "bands": list(model.bands),
                    "mean": list(model.mean),
                    "std": list(model.std),
                },
                "sources": [asdict(identity) for identity in inspection.source.identities],
                "source_origin": [self.plan.mosaic_window.row, self.plan.mosaic_window.col],
                "settings": self.fingerprint_fields,
                "fingerprint": self.fingerprint,
                "software": software(),
                "run_id": self.run_id,
            },
        )

    @property
    def spec(self) -> SegmentSpec:
        """What workers are given."""
        config, inspection, choices = self.config, self.inspection, self.choices
        return SegmentSpec(
            source=inspection.spec.with_threads(choices.threads),
            network=NetworkSpec(
                folder=inspection.model_folder,
                precision=choices.precision,
                compile=choices.compile,
                scales=config.inference.scales,
                flips=config.inference.flips,
                fuse=config.inference.fuse,
                device=choices.device,
                threads=choices.threads,
            ),
            engine=EngineSettings(
                lattice=self.plan.lattice,
                gain=inspection.gain,
                bias=inspection.bias,
                num_classes=self.numbers.num_classes,
                blend=config.blend.window,
                fuse_logits=config.inference.fuse == "logits",
                logits=config.output.logits,
                batch=choices.batch,
            ),
            plan=self.plan,
            output=self.output,
            ledger=self.ledger,
            layout=self.layout,
        )


def make_planned_run(
    config: RunConfig, machine: Machine, stored: Mapping[str, Any] | None = None
) -> PlannedRun:
    """Inspect, choose and plan; refuses what cannot run.

    Args:
        config: The settings.
        machine: What there is to compute on.
        stored: ``plan.json`` of the run that is continued; what it chose is chosen again.
    """
    inspection = inspect(config)
    return plan_inspected(config, inspection, machine, stored)


def plan_inspected(
    config: RunConfig, inspection: Inspection, machine: Machine, stored: Mapping[str, Any] | None = None
) -> PlannedRun:
    """Choose and plan for a source and model that have been looked at."""
    chosen = stored["choices"] if stored else None
    network = _price(config, inspection)
    grid = inspection.source.grid
    lattice = Lattice.over(
        grid.height,
        grid.width,
        crop_px=config.crop.size_px,
        stride_px=config.crop.stride_px,
        node_px=network.node_px,
    )
    workers = share_out(config, machine, chosen)
    check_int8(config, machine, workers, is_calibrated=inspection.model.calibrated)
    numbers = Numbers(
        num_bands=len(inspection.spec.bands),
        sample_bytes=inspection.dtype.itemsize,
        value_bytes=VALUE_BYTES["fp32"],
        num_classes=inspection.model.config.num_classes,
        logits=config.output.logits,
        reading_bytes=inspection.spec.with_threads(workers.threads).memory_bytes,
    )
    choices, plan, memory = choose(
        config,
        machine=machine,
        workers=workers,
        lattice=lattice,
        region=inspection.region,
        network=network,
        numbers=numbers,
        stored=chosen,
    )
    check_memory(memory, workers, choices, numbers.num_classes)
    run_id = str(stored["run_id"]) if stored else uuid.uuid4().hex
    why = reasons(
        config,
        machine=machine,
        workers=workers,
        lattice=lattice,
        region=inspection.region,
        choices=choices,
        stored=chosen,
    )
    return PlannedRun(config, inspection, network, numbers, workers, choices, plan, memory, run_id, why)


def _without_url(identity: Identity) -> dict[str, Any]:
    """A file that was moved is the same file."""
    return {name: value for name, value in asdict(identity).items() if name != "url"}


def _price(config: RunConfig, inspection: Inspection) -> NetworkCost:
    try:
        views = len(symmetries(config.inference.flips))
        network = network_cost(
            inspection.model.config,
            crop_px=config.crop.size_px,
            scales=config.inference.scales,
            views=views,
        )
    except ValueError as error:
        raise SettingsError(f"crop or inference settings do not fit the model: {error}") from error
    check_crops(
        config.crop.size_px,
        config.crop.stride_px,
        input_multiple_px=network.input_multiple_px,
        node_px=network.node_px,
    )
    return network


def plan_document(planned: PlannedRun, seconds_per_crop: float | None = None) -> dict[str, Any]:
    """The plan as ``plan.json`` and ``--plan --json`` have it."""
    counts, plan, workers = planned.plan.counts, planned.plan, planned.workers
    stack = plan.region.stack or ()
    num_blocks = math.prod((*stack, plan.block_rows, plan.block_cols))
    seconds = None
    if seconds_per_crop is not None:
        seconds = round(counts.crops_computed * seconds_per_crop / workers.count, 1)
    return {
        "format": PLAN_FORMAT,
        "run_id": planned.run_id,
        "fingerprint": planned.fingerprint,
        "fingerprint_fields": planned.fingerprint_fields,
        "choices": choices_to_json(planned.choices),
        "reasons": dict(planned.reasons),
        "workers": asdict(workers),
        "source": {
            "url": planned.inspection.source.url,
            "height": planned.inspection.source.grid.height,
            "width": planned.inspection.source.grid.width,
        },
        "grid": planned.plan.mosaic_grid(planned.inspection.source.grid).to_json(),
        "geometry": plan.to_json(),
        "block": {"size_px": plan.block_px, "rows": plan.block_rows, "cols": plan.block_cols},
        **({"planes": dict(zip(("t", "z"), stack, strict=True))} if stack else {}),
        **counts.to_json(),
        "skipped": {"blocks_outside_region": num_blocks - counts.blocks},
        **plan_bytes(plan, planned.numbers),
        "memory_per_worker": planned.memory.to_json(),
        "memory_limit_bytes": workers.memory_bytes,
        "multiply_adds": counts.crops_computed * planned.network.multiply_adds,
        "estimated_seconds": seconds,
        "output": redact(planned.output.url),
    }
