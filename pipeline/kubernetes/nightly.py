"""A dated RayJob, created once for each trigger and watched to its end.

What makes it safe to start over at any moment: the RayJob carries the name of the Kubernetes Job that asked
for it. A pod that is replaced finds it there and goes on watching, instead of starting a second one.
"""

import logging
import sys
import time
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator

from pipeline.errors import Refused, TerrazzoError
from pipeline.kubernetes.api import (
    HTTP_CONFLICT,
    HTTP_NOT_FOUND,
    KubernetesApi,
    KubernetesRefusal,
    KubernetesUnreachable,
)
from pipeline.kubernetes.pod_log import SubmitterLog
from pipeline.kubernetes.rayjob import (
    RUN_LABEL,
    TRIGGER_LABEL,
    RayJobState,
    dated_name,
    rayjob_from_template,
)
from pipeline.settings import Settings

log = logging.getLogger(__name__)

STATUSES = {0: "complete", 1: "incomplete", 2: "refused", 3: "interrupted", 70: "incomplete"}
"""The report's word for a RayJob's exit code."""

CREATE_TRIES = 5


class ApiSettings(Settings):
    """How the Kubernetes API is reached; in a pod nothing needs to be said."""

    url: Annotated[str | None, Field(description="the API; null: as the pod's environment says")] = None
    namespace: Annotated[str | None, Field(description="where RayJobs are; null: the pod's own")] = None
    account_folder: Annotated[
        str | None,
        Field(description="folder of token, ca.crt and namespace; null: where Kubernetes mounts it"),
    ] = None
    patience_s: Annotated[
        float, Field(description="seconds for which a call is repeated while the API is away", gt=0)
    ] = 300.0


class NightlyConfig(Settings):
    """One series of runs of ``jobs/nightly.py``."""

    template: Annotated[str, Field(description="name of the RayCronJob that describes the RayJob")]
    series: Annotated[
        str,
        Field(
            description="what the RayJobs' names begin with; one of a series runs at a time",
            pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
            max_length=35,
        ),
    ]
    trigger: Annotated[
        str | None,
        Field(
            description="what asks for this run; the same trigger gets the same RayJob",
            pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
            max_length=63,
        ),
    ] = None
    time_zone: Annotated[str, Field(description="zone of the date in the name, as in the CronJob")] = "UTC"
    poll_s: Annotated[float, Field(description="seconds between two looks at the RayJob", gt=0)] = 10.0
    deadline_s: Annotated[float, Field(description="seconds after which this program stops watching", gt=0)]
    api: ApiSettings = ApiSettings()

    @field_validator("time_zone")
    @classmethod
    def _is_a_time_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("time_zone must be a name such as Europe/Vienna that this system knows")
        return value


def run_once(config: NightlyConfig) -> dict[str, Any]:
    """Create the run's RayJob, or find the one this trigger has already created, and watch it to its end.

    Returns:
        ``status``, ``exit_code``, ``rayjob`` and how it ended.

    Raises:
        Refused: Another run of the series is under way, or the API says no.
    """
    api = KubernetesApi.from_pod(
        url=config.api.url,
        namespace=config.api.namespace,
        account_folder=config.api.account_folder,
        patience_s=config.api.patience_s,
    )
    give_up_at = time.monotonic() + config.deadline_s
    name = _find_or_create(api, config)
    state = _watch(api, name, poll_s=config.poll_s, give_up_at=give_up_at, deadline_s=config.deadline_s)
    log.info("RayJob %s ended: %s", name, state.describe())
    return {
        "status": STATUSES[state.exit_code],
        "exit_code": state.exit_code,
        "rayjob": name,
        "phase": state.phase,
        "reason": state.reason,
        "failures": state.failures,
    }


def _find_or_create(api: KubernetesApi, config: NightlyConfig) -> str:
    """The name of this trigger's RayJob. Looks again whenever somebody else was quicker."""
    template = api.get(api.raycronjobs_path(config.template))
    trigger = config.trigger or f"by-hand-{datetime.now().astimezone():%Y%m%d-%H%M%S-%f}"
    for _ in range(CREATE_TRIES):
        series = _states_of_series(api, config.series)
        mine = next((state for state in series if state.trigger == trigger), None)
        if mine is not None:
            log.info("RayJob %s was created for %s earlier; watching it", mine.name, trigger)
            return mine.name
        _refuse_a_second(series, config.series)
        day = datetime.now(ZoneInfo(config.time_zone)).date()
        name = dated_name(config.series, day, {state.name for state in series})
        labels = {RUN_LABEL: config.series, TRIGGER_LABEL: trigger}
        try:
            api.create(api.rayjobs_path(), rayjob_from_template(template, name=name, labels=labels))
        except KubernetesRefusal as error:
            if error.status != HTTP_CONFLICT:
                raise
            # Either an answer to our own call was lost on its way and this was the second try, or somebody
            # else took the name: the labels will tell.
            log.info("RayJob %s exists already; looking who created it", name)
            _refuse_a_stranger(api, name, config.series)
            continue
        log.info("RayJob %s created for %s", name, trigger)
        return name
    raise Refused(
        f"a free name for a RayJob of series {config.series!r} must be found in {CREATE_TRIES} tries"
    )


def _states_of_series(api: KubernetesApi, series: str) -> list[RayJobState]:
    listing = api.get(api.rayjobs_path(), labelSelector=f"{RUN_LABEL}={series}")
    return [RayJobState.of(document) for document in listing["items"]]


def _refuse_a_second(series: list[RayJobState], name: str) -> None:
    for state in series:
        if not state.is_finished:
            raise Refused(
                f"one run of series {name!r} must end before the next starts; RayJob {state.name} is "
                f"{state.describe()}; wait for it, or delete it if it is stuck"
            )


def _refuse_a_stranger(api: KubernetesApi, name: str, series: str) -> None:
    """A RayJob without our label would be found taken for ever."""
    try:
        labels = api.get(api.rayjobs_path(name))["metadata"].get("labels") or {}
    except KubernetesRefusal as error:
        if error.status != HTTP_NOT_FOUND:
            raise
        return  # gone again; the next look decides
    if labels.get(RUN_LABEL) != series:
        raise Refused(
            f"RayJob {name} must carry the label {RUN_LABEL}={series}, got {labels.get(RUN_LABEL)!r}: "
            "somebody else created it; delete or rename it, or choose another series"
        )


def _watch(
    api: KubernetesApi, name: str, *, poll_s: float, give_up_at: float, deadline_s: float
) -> RayJobState:
    """Look until it has ended; tell every change, and forward the log.

    The API may be away meanwhile, or turn this program away: the run itself goes on, so the watch does too.
    """
    follower = SubmitterLog(api, name, sys.stdout)
    told = ""
    while True:
        try:
            state = RayJobState.of(api.get(api.rayjobs_path(name)))
            seen = state.describe()
            follower.forward()
            if state.is_finished:
                return state
        except (KubernetesUnreachable, KubernetesRefusal) as error:
            if isinstance(error, KubernetesRefusal) and error.status == HTTP_NOT_FOUND:
                raise TerrazzoError(
                    f"RayJob {name} must exist until it has ended; somebody deleted it"
                ) from error
            seen = f"out of sight ({error})"
        if seen != told:
            told = seen
            log.info("RayJob %s is %s", name, told)
        if time.monotonic() + poll_s > give_up_at:
            raise TerrazzoError(
                f"RayJob {name} must end within {deadline_s:g} s (deadline_s); it is {told}, and goes on "
                "unwatched until its own activeDeadlineSeconds"
            )
        time.sleep(poll_s)
