"""A training run's folder as a run would leave it, made without training anything."""

import json
import math
from pathlib import Path

import numpy as np

from pipeline.report.pictures import encode_png
from pipeline.storage import Folder

NAMES = ("background", "forest", "water")
COLORS = ("#000000", "#2e6b3c", "#2f6f9f")
CONFUSION = [[800, 50, 150, 0], [30, 460, 0, 10], [0, 0, 500, 0]]


def figures(names=NAMES, confusion=CONFUSION):
    """What ``Validation.to_json`` would say of a confusion matrix."""
    counts = np.asarray(confusion)[:, : len(names)]
    hits, true, predicted = np.diagonal(counts), np.asarray(confusion).sum(1), counts.sum(0)
    iou = hits / (true + predicted - hits)
    dice = 2 * hits / (true + predicted)
    return {
        "miou": float(iou.mean()),
        "iou": dict(zip(names, iou.tolist(), strict=True)),
        "mean_dice": float(dice.mean()),
        "dice": dict(zip(names, dice.tolist(), strict=True)),
        "pixel_accuracy": float(hits.sum() / true.sum()),
        "boundary_iou": dict(zip(names, (iou / 2).tolist(), strict=True)),
        "class_accuracy": dict(zip(names, (hits / true).tolist(), strict=True)),
        "confusion": confusion,
    }


def log(steps=200, every=50, names=NAMES, confusion=CONFUSION):
    records = []
    for step in range(1, steps + 1):
        loss = 0.2 + math.exp(-step / 60) + 0.1 * math.sin(step)
        rate = 0.007 * (1 - (step - 1) / steps) ** 0.9
        records.append({"kind": "step", "step": step, "lr": rate, "loss": loss, "elapsed_s": step * 1.0})
        if step % every == 0:
            found = figures(names, confusion)
            share = 1 - math.exp(-step / 80)
            found["iou"] = {
                name: None if value is None else value * share for name, value in found["iou"].items()
            }
            found["miou"] *= share
            records.append({"kind": "validation", "step": step, **found})
    seconds = {"loading": 2.0, "forward": 60.0, "backward": 110.0, "all_reduce": 8.0, "optimizer": 20.0}
    pace = {
        "kind": "pace",
        "step": steps,
        "images_per_s": 12.5,
        "loading_images_per_s": 60.0,
        "time_shares": {phase: value / 200.0 for phase, value in seconds.items()},
        "phase_seconds": seconds | {"validation": 14.0, "saving": 1.5},
    }
    return [*records, pace]


def report(output, names=NAMES, confusion=CONFUSION, **more):
    pace = log(1)[-1]
    return {
        "status": "complete",
        "output": output,
        **figures(names, confusion),
        "classes": list(names),
        "steps": 200,
        "best_step": 150,
        "seconds": 200.0,
        **{name: pace[name] for name in ("images_per_s", "loading_images_per_s", "time_shares")},
        "splits": {"train": 12, "val": 4, "test": 0},
        "bad_tiles": [{"id": "x1", "reason": "label 9 is no <class>"}],
        "data_digest": "cd" * 32,
        "model": {
            "arch": "deeplabv3plus",
            "backbone": "resnet18",
            "classes": list(names),
            "output_stride": 16,
        },
        "sha256": "ab" * 32,
        "parent": None,
        "fingerprint": "0123456789abcdef",
        **more,
    }


def tile_pictures(folder, count=2, size=48):
    random = np.random.default_rng(0)
    palette = np.zeros((256, 4), np.uint8)
    palette[:3] = [(0, 0, 0, 255), (46, 107, 60, 255), (47, 111, 159, 255)]
    index = []
    for kind in ("worst", "best"):
        for number in range(count):
            labels = np.kron(random.integers(0, 3, (size // 8, size // 8)), np.ones((8, 8))).astype(np.uint8)
            labels[:4] = 255
            image = random.integers(0, 255, (4, size, size)).astype(np.uint8)
            image[3] = 255
            pictures = {
                "image": encode_png(image),
                "truth": encode_png(labels[None], palette),
                "prediction": encode_png(labels.T.copy()[None], palette),
            }
            keys = {name: f"validation/{kind}-{number}-{name}.png" for name in pictures}
            for name, png in pictures.items():
                folder.write(keys[name], png)
            index.append(
                {
                    "kind": kind,
                    "id": f"{kind}_{number}",
                    "miou": 0.3 if kind == "worst" else None,
                    "pixel_accuracy": 0.5,
                    "pixels": 1000,
                    "window": [0, 16, size, size],
                    "tile_px": [size, 4 * size],
                    "pictures": keys,
                }
            )
    folder.write("validation/pictures.json", json.dumps(index).encode())


def write_training(folder: Path, *, names=NAMES, colors=COLORS, confusion=CONFUSION, steps=200, **of_report):
    """A finished run; gives its run folder's path."""
    output = str(folder / "land-model")
    run = Folder.at(f"{output}.run")
    settings = {"train": {"max_steps": 200, "batch": 16}, "tiles": {"url": "s3://tiles/<land>"}}
    document = {
        "fingerprint": "0123456789abcdef",
        "fingerprint_fields": {"tiles": "cd" * 32, "mean": [80.0, 90.0], "train": {"batch": 16}},
        "settings": settings,
    }
    run.write("train.json", json.dumps(document).encode())
    run.write("report.json", json.dumps(report(output, names, confusion, **of_report)).encode())
    lines = [json.dumps(record) for record in log(steps, names=names, confusion=confusion)] if steps else []
    run.write("log.jsonl", "".join(f"{line}\n" for line in lines).encode())
    tile_pictures(run)
    model = {
        "config": {"classes": list(names)},
        "colors": list(colors),
        "bands": ["red", "nir"],
        "mean": [80.0, 90.0],
        "std": [30.0, 35.0],
        "lineage": {"data": {"tiles": "s3://tiles/land"}},
    }
    Folder.at(output).write("model.json", json.dumps(model).encode())
    return f"{output}.run"
