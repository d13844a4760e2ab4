"""Segmentation as processes of their own, on a disk or from and to a bucket, and one that is killed there."""

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import boto3
import yaml

from pipeline.storage import Folder

REPOSITORY = Path(__file__).resolve().parents[3]


def make_bucket(name: str) -> str:
    """An empty bucket on the server that ``AWS_*`` variables lead to."""
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def upload(url: str, files: Iterable[Path]) -> None:
    """Copies of files, by their names."""
    for file in files:
        Folder(url).write(file.name, file.read_bytes())


def job_of(folder: str | Path, document: dict) -> list[str]:
    """The command of a run whose settings are stored in a folder or bucket."""
    Folder.at(folder).write("run.yaml", yaml.safe_dump(document).encode())
    return [sys.executable, "jobs/segment_region.py", "--config", f"{folder}/run.yaml", "--json"]


def run_job(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A job from beginning to end."""
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=560, check=False)


def kill_after_a_block(command: Sequence[str], output: str | Path) -> None:
    """A job is begun and dies without a word as soon as its ledger holds a block."""
    job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not any(Folder.at(f"{output}.run").listing("blocks/")):
            assert job.poll() is None, "it ended before it had finished a block"
            time.sleep(0.05)
    finally:
        job.kill()
        job.wait()
