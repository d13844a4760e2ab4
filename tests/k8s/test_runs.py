"""Every command that a manifest runs: its script exists, and its settings are what the script accepts."""

import importlib
import shlex
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from pipeline.config import RunConfig
from pipeline.train.config import TrainConfig
from pipeline.train.retrain.config import RetrainConfig
from tests.k8s.rendered import KUSTOMIZATIONS, ROOT, Document, render

APPLICATION = PurePosixPath("/opt/terrazzo")
RUNS = PurePosixPath("/etc/terrazzo/runs")


def commands(kustomization: str) -> list[tuple[str, list[str], dict[str, str]]]:
    """Where, the words of the command, and the files that its pod sees below /etc/terrazzo."""
    documents = render(kustomization)
    found: list[tuple[str, list[str], dict[str, str]]] = []
    for document in documents:
        where = f"{kustomization}: {document['kind']} {document['metadata']['name']}"
        match document["kind"]:
            case "RayJob":
                spec = document["spec"]
            case "RayCronJob":
                spec = document["spec"]["jobTemplate"]
            case "CronJob":
                pod = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
                found.append((where, pod["containers"][0]["command"], mounted(pod, documents)))
                continue
            case _:
                continue
        head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]  # the driver runs there
        found.append((where, shlex.split(spec["entrypoint"]), mounted(head, documents)))
    return found


def mounted(pod: Document, documents: tuple[Document, ...]) -> dict[str, str]:
    """Files of the ConfigMaps that a pod's first container mounts, by path."""
    data = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    files: dict[str, str] = {}
    for mount in pod["containers"][0]["volumeMounts"]:
        volume = volumes[mount["name"]]
        sources = [s["configMap"] for s in volume.get("projected", {}).get("sources", [])]
        sources += [volume["configMap"]] if "configMap" in volume else []
        for source in sources:
            assert source["name"] in data or source.get("optional"), source
            for name, text in data.get(source["name"], {}).items():
                files[f"{mount['mountPath']}/{name}"] = text
    return files


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_every_command_starts_a_job_with_settings_it_accepts(kustomization: str, tmp_path: Path) -> None:
    found = commands(kustomization)
    assert found
    for where, (program, script, *arguments), files in found:
        assert program == "python", where
        path = PurePosixPath(script).relative_to(APPLICATION)
        assert (ROOT / path).is_file(), f"{where}: there is no {path}"
        job: Any = importlib.import_module(".".join(path.with_suffix("").parts))
        job.load(job.parse(on_this_machine(where, arguments, files, tmp_path)))


def on_this_machine(where: str, arguments: list[str], files: dict[str, str], folder: Path) -> list[str]:
    """The arguments with paths of the pod replaced by copies here, and Kubernetes' $(VARIABLES) by a word."""
    words = []
    for argument in arguments:
        flag, separator, value = argument.rpartition("=")
        if value.startswith("/etc/"):
            assert value in files, f"{where}: nothing is mounted at {value}"
            copy = folder / PurePosixPath(value).name
            copy.write_text(files[value])
            value = str(copy)
        words.append(f"{flag}{separator}{'word' if value.startswith('$(') else value}")
    return words


def settings_of(command: list[str], files: dict[str, str]) -> Any:
    return yaml.safe_load(files[command[command.index("--config") + 1]])


def having(script: str) -> list[str]:
    """Kustomizations with a command of this script, by what lies in their folders."""
    by_hand = {"segment_region.py": ("segment-region",), "train.py": ("train", "retrain")}[script]
    return [k for k in KUSTOMIZATIONS if k.startswith("overlays/") or k.split("/")[1] in by_hand]


@pytest.mark.parametrize("kustomization", having("segment_region.py"))
def test_a_worker_fits_into_its_pod(kustomization: str) -> None:
    """Actors that ask for more than any node has would wait for ever."""
    groups = worker_groups(kustomization)
    for where, command, files in commands(kustomization):
        if "segment_region.py" not in command[1]:
            continue
        config = RunConfig.model_validate(settings_of(command, files))
        compute = config.compute
        for group in groups:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert compute.threads_per_worker != "auto"
            assert compute.threads_per_worker <= int(limits["cpu"]), where
            assert compute.gpus_per_worker == int(limits.get("nvidia.com/gpu", 0)), where
            assert compute.memory_gib != "auto"
            assert compute.memory_gib < int(limits["memory"].removesuffix("Gi")), where
        assert compute.workers == max(group["maxReplicas"] for group in groups), where


@pytest.mark.parametrize("kustomization", having("train.py"))
def test_a_training_worker_fits_into_its_pod(kustomization: str) -> None:
    groups = worker_groups(kustomization)
    for where, command, files in commands(kustomization):
        if "train.py" not in command[1]:
            continue
        settings = settings_of(command, files)
        kind = RetrainConfig if "retrain.py" in command[1] else TrainConfig
        config = kind.model_validate(settings)
        workers = config.train.workers
        assert (workers if isinstance(workers, int) else workers[1]) == max(g["maxReplicas"] for g in groups)
        assert config.compute.executor == "ray", where
        for group in groups:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert config.compute.gpus_per_worker == int(limits.get("nvidia.com/gpu", 0)), where
            assert config.compute.threads_per_worker != "auto"
            assert config.compute.threads_per_worker <= int(limits["cpu"]), where


@pytest.mark.parametrize("overlay", ["cpu-small", "gpu-spot", "kueue"])
def test_retraining_by_hand_is_the_weekly_one(overlay: str) -> None:
    """The same challenger, whoever asks for it."""
    by_hand = (ROOT / f"k8s/jobs/retrain/{overlay}/retrain.yaml").read_text()
    weekly = (ROOT / f"k8s/overlays/{overlay}/runs/retrain.yaml").read_text()
    assert yaml.safe_load(by_hand) == yaml.safe_load(weekly)


@pytest.mark.parametrize("overlay", ["cpu-small", "gpu-spot", "kueue"])
def test_a_week_with_few_new_tiles_fails_nothing(overlay: str) -> None:
    """Exit code 2 would be tried again on new nodes, and then raise an alert."""
    weekly = yaml.safe_load((ROOT / f"k8s/overlays/{overlay}/runs/retrain.yaml").read_text())
    config = RetrainConfig.model_validate(weekly)
    assert config.retrain.min_new_tiles > 1
    assert config.retrain.too_few == "wait"


def worker_groups(kustomization: str) -> list[Document]:
    """The workers of a kustomization's jobs, which are all alike."""
    first, *others = [
        document["spec"].get("jobTemplate", document["spec"])["rayClusterSpec"]["workerGroupSpecs"]
        for document in render(kustomization)
        if document["kind"] in ("RayCronJob", "RayJob")
    ]
    assert all(groups == first for groups in others)
    return list(first)
