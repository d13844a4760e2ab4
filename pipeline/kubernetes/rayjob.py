"""RayJobs as documents: how one is made from a template, and what its status means.

Nothing here talks to a cluster.
"""

import re
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from typing import Any

from pipeline.errors import SettingsError

Document = dict[str, Any]

MAX_NAME = 47
"""KubeRay refuses longer names: it appends to them, and Kubernetes stops at 63."""

RUN_LABEL = "terrazzo/run"
"""Which series a RayJob belongs to; one of a series runs at a time."""

TRIGGER_LABEL = "terrazzo/trigger"
"""What asked for a RayJob: the Kubernetes Job whose pods may come and go while it runs."""

FINISHED = frozenset({"Complete", "Failed", "ValidationFailed"})
"""Values of ``status.jobDeploymentStatus`` after which nothing happens any more. Retrying is none of them."""

EXIT_CODES_OF_JOBS = frozenset({0, 1, 2, 3, 70})


def dated_name(series: str, day: date, taken: Collection[str]) -> str:
    """``series-20261121``, with ``-2``, ``-3`` ... appended if the day had one already.

    Two that look at the same time choose the same name, and Kubernetes lets only one of them create it.
    """
    first = f"{series}-{day:%Y%m%d}"
    attempt, name = 1, first
    while name in taken:
        attempt += 1
        name = f"{first}-{attempt}"
    if len(name) > MAX_NAME:
        raise SettingsError(
            f"a RayJob's name must have at most {MAX_NAME} characters, got {name!r}; shorten series"
        )
    return name


def rayjob_from_template(template: Mapping[str, Any], *, name: str, labels: Mapping[str, str]) -> Document:
    """The RayJob that a RayCronJob describes, with the RayCronJob's own labels and these.

    The labels matter: Kueue finds its queue there, and a RayCronJob's template has no place for them.
    """
    inherited = template["metadata"].get("labels", {})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": {**inherited, **labels}},
        "spec": deepcopy(template["spec"]["jobTemplate"]),
    }


@dataclass(frozen=True)
class RayJobState:
    """Where a RayJob stands.

    Attributes:
        phase: KubeRay's word for it; empty before the operator has seen it.
        failures: Attempts that failed; KubeRay starts a new cluster for each.
        reason: Why it failed, in a word; empty otherwise.
        message: The same in sentences; may hold the end of the driver's log.
    """

    name: str
    phase: str
    job_status: str
    failures: int
    reason: str
    message: str
    trigger: str | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "RayJobState":
        """The state in a RayJob as the API gives it."""
        status = document.get("status") or {}
        metadata = document["metadata"]
        return cls(
            name=metadata["name"],
            phase=status.get("jobDeploymentStatus", ""),
            job_status=status.get("jobStatus", ""),
            failures=int(status.get("failed") or 0),
            reason=status.get("reason", ""),
            message=status.get("message", ""),
            trigger=(metadata.get("labels") or {}).get(TRIGGER_LABEL),
        )

    @property
    def is_finished(self) -> bool:
        """Whether KubeRay will do nothing more about it."""
        return self.phase in FINISHED

    @property
    def exit_code(self) -> int:
        """What the job's driver would have given a shell; 1 where nobody knows better.

        KubeRay passes the driver's code on only within Ray's message.
        """
        if self.phase == "ValidationFailed":
            return 2  # refused by the operator, nothing was started
        if self.phase == "Complete" and self.job_status == "SUCCEEDED":
            return 0
        if self.phase == "Failed" and self.reason == "AppFailed":
            # From the beginning only: what follows is the log, which may speak of other exit codes.
            said = re.match(r"Job entrypoint command failed with exit code (-?\d+)\b", self.message)
            if said and int(said[1]) in EXIT_CODES_OF_JOBS - {0}:
                return int(said[1])
        return 1

    def describe(self) -> str:
        """One line for people."""
        words = self.phase or "New"
        if self.job_status:
            words += f" ({self.job_status})"
        if self.failures and not self.is_finished:
            words += f" after {self.failures} failed"
        if self.reason:
            words += f", {self.reason}"
        first = self.message.strip().split("\n", 1)[0]
        return f"{words}: {first}" if first else words
