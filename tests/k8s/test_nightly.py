"""jobs/nightly.py as a process, against a server that answers like the Kubernetes API."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.k8s.kubernetes_server import (
    INITIALIZING,
    RUNNING,
    SUCCEEDED,
    KubernetesServer,
    failed_with,
    mount_account,
    serving,
    status,
)

ROOT = Path(__file__).resolve().parents[2]
RAYJOBS = "/apis/ray.io/v1/namespaces/terrazzo/rayjobs"
TRIGGER = "terrazzo-nightly-29394840"
OURS = {"terrazzo/run": "terrazzo-nightly", "terrazzo/trigger": TRIGGER}
OTHERS = OURS | {"terrazzo/trigger": "terrazzo-nightly-29393400"}
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture
def stopped() -> KubernetesServer:
    """A cluster whose API is away."""
    template = yaml.safe_load((ROOT / "k8s/base/nightly-template.yaml").read_text())
    template["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "terrazzo"
    return KubernetesServer(template, statuses=[INITIALIZING, RUNNING, SUCCEEDED])


@pytest.fixture
def cluster(stopped: KubernetesServer) -> Iterator[KubernetesServer]:
    with serving(stopped) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def start(cluster: KubernetesServer, folder: Path, **settings: Any) -> subprocess.Popen[str]:
    assignments = {
        "template": "terrazzo-nightly-template",
        "series": "terrazzo-nightly",
        "poll_s": 0.05,
        "deadline_s": 60,
        "api.url": cluster.url,
        "api.account_folder": str(mount_account(folder / "account")),
        "api.patience_s": 20,
    } | settings
    flags = [f"--set={name}={value}" for name, value in assignments.items()]
    process = subprocess.Popen(
        [sys.executable, ROOT / "jobs/nightly.py", f"--trigger={TRIGGER}", "--json", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A proxy that goes nowhere: the API is inside the cluster and must be asked without it.
        env=os.environ | {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
    )
    STARTED.append(process)
    return process


class Ended:
    """A finished run of the program."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        out, self.err = process.communicate(timeout=60)
        self.code = process.returncode
        self.lines = out.splitlines()
        self.report = json.loads(self.lines[-1])


def run(cluster: KubernetesServer, folder: Path, **settings: Any) -> Ended:
    return Ended(start(cluster, folder, **settings))


def today() -> str:
    return f"terrazzo-nightly-{datetime.now(UTC):%Y%m%d}"


def test_creates_one_dated_rayjob_from_the_template_and_waits_for_its_end(
    cluster: KubernetesServer, tmp_path: Path
) -> None:
    ended = run(cluster, tmp_path)
    assert (ended.code, ended.report["status"]) == (0, "complete"), ended.err
    [(name, rayjob)] = cluster.rayjobs.items()
    assert name == ended.report["rayjob"] == today()
    assert rayjob["spec"] == cluster.template["spec"]["jobTemplate"]
    assert rayjob["metadata"]["labels"] == cluster.template["metadata"]["labels"] | OURS
    for words in ("is Initializing", "is Running (RUNNING)", "ended: Complete (SUCCEEDED)"):
        assert f"RayJob {name} {words}" in ended.err


@pytest.mark.parametrize("code", [2, 70])
def test_ends_with_the_drivers_exit_code(cluster: KubernetesServer, tmp_path: Path, code: int) -> None:
    cluster.statuses = [failed_with(code)]
    assert run(cluster, tmp_path).code == code


def test_a_run_past_its_deadline_is_incomplete(cluster: KubernetesServer, tmp_path: Path) -> None:
    message = "The RayJob has passed the activeDeadlineSeconds."
    cluster.statuses = [
        RUNNING,
        status("Failed", "RUNNING", failed=1, reason="DeadlineExceeded", message=message),
    ]
    ended = run(cluster, tmp_path)
    assert (ended.code, ended.report["reason"]) == (1, "DeadlineExceeded")
    assert message in ended.err


def test_a_retry_is_no_end(cluster: KubernetesServer, tmp_path: Path) -> None:
    cluster.statuses = [
        RUNNING,
        status("Retrying", "FAILED", failed=1),
        status("Initializing", failed=1),
        status("Running", "RUNNING", failed=1),
        SUCCEEDED | {"failed": 1},
    ]
    ended = run(cluster, tmp_path)
    assert (ended.code, ended.report["failures"]) == (0, 1)
    assert "Running (RUNNING) after 1 failed" in ended.err


def test_refuses_while_another_run_of_the_series_is_under_way(
    cluster: KubernetesServer, tmp_path: Path
) -> None:
    cluster.add_rayjob("terrazzo-nightly-20261120", OTHERS, RUNNING)
    ended = run(cluster, tmp_path)
    assert ended.code == 2
    assert "terrazzo-nightly-20261120 is Running" in ended.report["error"]
    assert not cluster.created()


def test_a_rayjob_that_the_operator_has_not_seen_yet_is_under_way_too(
    cluster: KubernetesServer, tmp_path: Path
) -> None:
    cluster.add_rayjob("terrazzo-nightly-20261120", OTHERS, None)
    assert run(cluster, tmp_path).code == 2
    assert not cluster.created()


def test_a_finished_run_of_the_same_day_does_not_stand_in_the_way(
    cluster: KubernetesServer, tmp_path: Path
) -> None:
    cluster.add_rayjob(today(), OTHERS, failed_with(1))
    ended = run(cluster, tmp_path)
    assert (ended.code, ended.report["rayjob"]) == (0, f"{today()}-2")


def test_after_a_restart_the_same_rayjob_is_watched_on(cluster: KubernetesServer, tmp_path: Path) -> None:
    cluster.add_rayjob("terrazzo-nightly-20261120", OURS, None)  # begun before midnight
    ended = run(cluster, tmp_path)
    assert (ended.code, ended.report["rayjob"]) == (0, "terrazzo-nightly-20261120")
    assert not cluster.created()


@pytest.mark.parametrize("fault", ["lose", 500])
def test_a_creation_whose_answer_is_lost_makes_no_second_rayjob(
    cluster: KubernetesServer, tmp_path: Path, fault: Any
) -> None:
    cluster.faults[f"POST {RAYJOBS}"] = [fault]
    ended = run(cluster, tmp_path)
    assert ended.code == 0, ended.err
    assert list(cluster.rayjobs) == [today()]
    assert "asking again" in ended.err


def test_two_at_the_same_time_make_one_rayjob(cluster: KubernetesServer, tmp_path: Path) -> None:
    """The other was quicker, between our look and our creation."""
    original = cluster.create

    def other_first(name: str, body: dict[str, Any]) -> tuple[int, Any]:
        cluster.add_rayjob(name, OTHERS, RUNNING)
        return original(name, body)

    cluster.create = other_first  # type: ignore[method-assign]
    ended = run(cluster, tmp_path)
    assert ended.code == 2
    assert list(cluster.rayjobs) == [today()]
    assert cluster.rayjobs[today()]["metadata"]["labels"] == OTHERS


def test_a_strangers_rayjob_of_that_name_is_named(cluster: KubernetesServer, tmp_path: Path) -> None:
    cluster.add_rayjob(today(), {}, SUCCEEDED)
    ended = run(cluster, tmp_path)
    assert ended.code == 2
    assert "must carry the label terrazzo/run=terrazzo-nightly, got None" in ended.report["error"]


def test_hiccups_while_watching_do_not_end_the_watch(cluster: KubernetesServer, tmp_path: Path) -> None:
    cluster.statuses = [RUNNING, RUNNING, SUCCEEDED]
    cluster.faults[f"GET {RAYJOBS}/"] = [503, 401]
    ended = run(cluster, tmp_path)
    assert ended.code == 0, ended.err
    assert "was answered 503: etcdserver: request timed out" in ended.err
    assert "out of sight" in ended.err


def test_an_api_that_is_away_for_a_while_is_waited_for(stopped: KubernetesServer, tmp_path: Path) -> None:
    """The control plane is upgraded: nobody listens, then the RayJob has ended meanwhile."""
    stopped.statuses = [RUNNING]
    with serving(stopped) as server:
        process = start(server, tmp_path)
        wait_for(lambda: ("get", "rayjobs", today()) in server.calls)
    time.sleep(0.3)  # several looks
    stopped.statuses = [SUCCEEDED]
    with serving(stopped, urlsplit(stopped.url).port or 0) as server:
        ended = Ended(process)
        assert ended.code == 0, ended.err
        assert "was not answered" in ended.err
        assert server.created() == [today()]


def test_an_api_that_stays_away_is_named(cluster: KubernetesServer, tmp_path: Path) -> None:
    cluster.faults["GET "] = [500] * 20
    ended = run(cluster, tmp_path, **{"api.patience_s": 1.5})
    assert ended.code == 1
    assert "must answer within 1.5 s (api.patience_s)" in ended.report["error"]


def test_a_rayjob_that_is_deleted_is_no_success(cluster: KubernetesServer, tmp_path: Path) -> None:
    cluster.statuses = [RUNNING]
    cluster.faults[f"GET {RAYJOBS}/"] = [404]
    ended = run(cluster, tmp_path)
    assert ended.code == 1
    assert "somebody deleted it" in ended.report["error"]


def test_its_own_deadline_ends_the_watch_and_says_that_the_run_goes_on(
    cluster: KubernetesServer, tmp_path: Path
) -> None:
    cluster.statuses = [RUNNING]
    ended = run(cluster, tmp_path, deadline_s=0.3)
    assert ended.code == 1
    assert "must end within 0.3 s (deadline_s); it is Running (RUNNING), and goes on" in ended.report["error"]


def test_asked_to_stop_it_leaves_the_rayjob_to_the_next_pod(
    cluster: KubernetesServer, tmp_path: Path
) -> None:
    cluster.statuses = [RUNNING]
    process = start(cluster, tmp_path)
    wait_for(lambda: ("get", "rayjobs", today()) in cluster.calls)
    process.send_signal(signal.SIGTERM)
    ended = Ended(process)
    assert (ended.code, ended.report["status"]) == (3, "interrupted")
    cluster.statuses = [SUCCEEDED]
    assert run(cluster, tmp_path).code == 0
    assert cluster.created() == [today()]


def test_every_line_of_the_log_is_forwarded_once_over_attempts_and_hiccups(
    cluster: KubernetesServer, tmp_path: Path
) -> None:
    first = [
        ("2026-11-21T02:03:11.100000001Z", "reading"),
        ("2026-11-21T02:03:11.200000001Z", "block 1"),
        ("2026-11-21T02:03:11.200000001Z", "block 2"),
    ]
    cluster.add_submitter(today(), "submitter-a", first)
    cluster.add_submitter("somebody-else", "submitter-b", [("2026-11-21T02:03:11.1Z", "not ours")])
    cluster.statuses = [RUNNING]
    cluster.faults["GET /api/v1/namespaces/terrazzo/pods/submitter-a/log"] = [403]
    process = start(cluster, tmp_path)
    wait_for(lambda: cluster.calls.count(("get", "pods/log", "submitter-a")) > 2)
    with cluster.lock:
        first.append(("2026-11-21T02:03:11.200000001Z", "block 3, in the same nanosecond"))
        first.append(("2026-11-21T02:03:12Z", "block 4"))
        cluster.add_submitter(today(), "submitter-c", [("2026-11-21T02:09:00Z", "second attempt")])
    wait_for(lambda: cluster.calls.count(("get", "pods/log", "submitter-c")) > 2)
    cluster.statuses = [SUCCEEDED]
    ended = Ended(process)
    assert ended.code == 0, ended.err
    assert ended.lines[:-1] == [*(line for _, line in first), "second attempt"]
    assert ended.err.count("cannot be forwarded") == 1


def test_a_replaced_token_is_read_anew(cluster: KubernetesServer, tmp_path: Path) -> None:
    cluster.statuses = [RUNNING]
    process = start(cluster, tmp_path)
    wait_for(lambda: ("get", "rayjobs", today()) in cluster.calls)
    with cluster.lock:
        cluster.token = "token-of-the-next-hour"
        (tmp_path / "account/token").write_text(cluster.token)
        cluster.statuses = [SUCCEEDED]
    ended = Ended(process)
    assert ended.code == 0, ended.err


def test_the_role_allows_just_the_calls_that_are_made(cluster: KubernetesServer, tmp_path: Path) -> None:
    cluster.add_submitter(today(), "submitter-a", [])
    assert run(cluster, tmp_path).code == 0
    role, _ = yaml.safe_load_all((ROOT / "k8s/base/nightly-rbac.yaml").read_text())
    allowed = {
        (verb, resource) for rule in role["rules"] for verb in rule["verbs"] for resource in rule["resources"]
    }
    assert {(verb, resource) for verb, resource, _ in cluster.calls} == allowed


def test_outside_a_pod_it_says_what_is_missing(tmp_path: Path) -> None:
    nobody = KubernetesServer({})
    nobody.url = "http://127.0.0.1:9"
    process = start(nobody, tmp_path, **{"api.account_folder": tmp_path / "nowhere"})
    ended = Ended(process)
    assert ended.code == 2
    assert "there must be a service account's token" in ended.report["error"]


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_pod_that_does_not_say_where_it_is_must_be_told(cluster: KubernetesServer, tmp_path: Path) -> None:
    account = mount_account(tmp_path / "nameless")
    (account / "namespace").unlink()
    ended = run(cluster, tmp_path, **{"api.account_folder": str(account)})
    assert ended.code == 2
    assert f"api.namespace must be given where there is no {account / 'namespace'} to say it" in ended.err
