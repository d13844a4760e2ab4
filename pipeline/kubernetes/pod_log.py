"""The log of a RayJob's submitters, forwarded line by line, each line once."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from pipeline.kubernetes.api import (
    HTTP_BAD_REQUEST,
    HTTP_NOT_FOUND,
    KubernetesApi,
    KubernetesRefusal,
    KubernetesUnreachable,
)

log = logging.getLogger(__name__)

SUBMITTER = "ray-job-submitter"
"""The container that runs ``ray job submit`` and follows the job's log; one pod an attempt, or more."""

ORIGIN_LABEL = "ray.io/originated-from-cr-name"


@dataclass
class _Cursor:
    """How far one pod's log was read: the last time stamp, and how many lines bore it."""

    stamp: str = ""
    lines_at_stamp: int = 0


@dataclass
class SubmitterLog:
    """Asks now and then for what is new, instead of holding a stream that every hiccup would cut.

    Attributes:
        api: The API.
        rayjob: Name of the RayJob.
        stream: Where lines go.
    """

    api: KubernetesApi
    rayjob: str
    stream: TextIO
    _cursors: dict[str, _Cursor] = field(default_factory=dict)
    _complained: bool = False

    def forward(self) -> None:
        """Write what has been logged since the last call. A log that cannot be had stops no run."""
        try:
            for pod in self._pods():
                for line in self._new_lines(pod):
                    self.stream.write(line + "\n")
        except (KubernetesRefusal, KubernetesUnreachable) as error:
            if not self._complained:
                log.warning("the log of RayJob %s cannot be forwarded: %s", self.rayjob, error)
            self._complained = True
        self.stream.flush()

    def _pods(self) -> list[str]:
        """Names of the submitters' pods, oldest first."""
        listing = self.api.get(self.api.pods_path(), labelSelector=f"{ORIGIN_LABEL}={self.rayjob}")
        pods = [pod for pod in listing["items"] if _has_submitter(pod)]
        pods.sort(key=lambda pod: pod["metadata"].get("creationTimestamp", ""))
        return [pod["metadata"]["name"] for pod in pods]

    def _new_lines(self, pod: str) -> Iterator[str]:
        cursor = self._cursors.setdefault(pod, _Cursor())
        # sinceTime counts whole seconds, so the last second's lines come again; the cursor drops them.
        since = {"sinceTime": f"{cursor.stamp[:19]}Z"} if cursor.stamp else {}
        try:
            text = self.api.get_text(
                f"{self.api.pods_path(pod)}/log", container=SUBMITTER, timestamps="true", **since
            )
        except KubernetesRefusal as error:
            if error.status in (HTTP_BAD_REQUEST, HTTP_NOT_FOUND):
                return  # the container has not begun, or the pod has just been deleted
            raise
        seen = cursor.lines_at_stamp
        for entry in text.splitlines():
            stamp, _, line = entry.partition(" ")
            if stamp < cursor.stamp:
                continue
            if stamp == cursor.stamp:
                if seen:
                    seen -= 1
                    continue
                cursor.lines_at_stamp += 1
            else:
                cursor.stamp, cursor.lines_at_stamp, seen = stamp, 1, 0
            yield line


def _has_submitter(pod: dict[str, Any]) -> bool:
    return any(container["name"] == SUBMITTER for container in pod["spec"]["containers"])
