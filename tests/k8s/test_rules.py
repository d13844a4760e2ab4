"""What no schema says: KubeRay's own rules, security, resources, and promises between manifests."""

import re
from datetime import date

import pytest
import yaml

from pipeline.kubernetes.nightly import NightlyConfig
from pipeline.kubernetes.rayjob import dated_name
from tests.k8s.rendered import (
    KUSTOMIZATIONS,
    ROOT,
    Document,
    all_documents,
    containers,
    one,
    pod_specs,
    ray_places,
    render,
)

NAME_LIMITS = {"RayCluster": 53, "RayJob": 47, "RayCronJob": 36, "CronJob": 52}
"""KubeRay appends to names, and so does Kubernetes."""

OVERLAYS = [name for name in KUSTOMIZATIONS if name.startswith("overlays/")]
ONE_SHOT = [name for name in KUSTOMIZATIONS if name.startswith("jobs/")]
SERIES = {"nightly": 24 * 3600, "retrain": 7 * 24 * 3600}
"""What comes again by itself, and after how many seconds."""


def ray_version() -> str:
    [version] = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return str(version)


def test_there_is_something_to_check() -> None:
    assert {"overlays/cpu-small", "overlays/gpu-spot", "overlays/kueue"} <= set(OVERLAYS)
    assert {name.split("/")[1] for name in ONE_SHOT} == {"segment-region", "train", "retrain", "evaluate"}
    # Standing clusters in two overlays, the two series in all three, four jobs of each overlay.
    assert len(list(ray_places())) == 2 + 2 * 3 + 4 * 3
    assert len(list(containers())) > 20


def test_names_are_short_enough() -> None:
    for where, document in all_documents():
        name = document["metadata"]["name"]
        assert len(name) <= NAME_LIMITS.get(document["kind"], 63), where
        if document["apiVersion"].startswith("ray.io/"):
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name), where


def test_dated_names_are_short_enough_for_years_and_many_tries_a_day() -> None:
    for name in SERIES:
        series = series_settings("overlays/gpu-spot", name).series
        taken = {f"{series}-20991231"} | {f"{series}-20991231-{attempt}" for attempt in range(2, 100)}
        assert dated_name(series, date(2099, 12, 31), taken) == f"{series}-20991231-100"


def test_ray_is_the_same_everywhere() -> None:
    for place in ray_places():
        assert place.cluster["rayVersion"] == ray_version(), place.where
    for where, container in containers():
        if "image" in container:
            assert container["image"].endswith(f"-ray{ray_version()}"), where


def test_one_image_serves_every_role() -> None:
    for kustomization in KUSTOMIZATIONS:
        images = {
            container["image"]
            for where, container in containers()
            if where.startswith(kustomization) and "image" in container
        }
        assert len(images) == 1, (kustomization, images)
        assert not any(image.endswith(":latest") or ":" not in image for image in images)


def test_heads_compute_nothing() -> None:
    for place in ray_places():
        head = place.cluster["headGroupSpec"]
        assert head["rayStartParams"]["num-cpus"] == "0", place.where
        [container] = head["template"]["spec"]["containers"]
        for amounts in container["resources"].values():
            assert not any("gpu" in name for name in amounts), place.where


def test_every_container_is_restricted() -> None:
    for where, container in containers():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, where
        assert security["readOnlyRootFilesystem"] is True, where
        assert security["capabilities"] == {"drop": ["ALL"]}, where
    for where, pod in pod_specs():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, where
        assert security["runAsUser"] >= 10000, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), where


def test_every_container_says_what_it_needs_and_where_it_ends() -> None:
    for where, container in containers():
        resources = container["resources"]
        for amounts in (resources["requests"], resources["limits"]):
            assert {"cpu", "memory", "ephemeral-storage"} <= set(amounts), where


def test_what_must_be_written_is_a_volume_with_a_limit() -> None:
    for where, pod in pod_specs():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], (where, volume["name"])
        for container in pod["containers"]:
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            for path in ("/tmp", "/home/terrazzo"):  # noqa: S108 - a path in a container
                assert "emptyDir" in mounts[path], where
    for place in ray_places():
        for spec in ray_pods(place.cluster):
            mounted = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
            assert {"/var/cache/terrazzo", "/dev/shm"} <= mounted, place.where  # noqa: S108


def ray_pods(cluster: Document) -> list[Document]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_shared_memory_holds_the_object_store() -> None:
    for place in ray_places():
        for group in (place.cluster["headGroupSpec"], *place.cluster["workerGroupSpecs"]):
            [volume] = [v for v in group["template"]["spec"]["volumes"] if v["name"] == "shared-memory"]
            limit_mib = int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi"))
            assert int(group["rayStartParams"]["object-store-memory"]) <= limit_mib * 2**20, place.where


def test_draining_ends_before_the_pod_is_killed() -> None:
    for place in ray_places():
        for spec in ray_pods(place.cluster):
            environment = {entry["name"]: entry["value"] for entry in spec["containers"][0]["env"]}
            drain_s = int(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
            assert drain_s + 15 <= spec["terminationGracePeriodSeconds"], place.where
            if place.job is not None:
                stop_s = int(
                    yaml.safe_load(place.job["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
                )
                assert 3 < stop_s < spec["terminationGracePeriodSeconds"], place.where


def test_authentication_is_on() -> None:
    for place in ray_places():
        assert place.cluster["authOptions"] == {"mode": "token"}, place.where


def test_deletion_follows_the_operators_rules() -> None:
    """The operator refuses these at run time, when nobody looks."""
    order = ["DeleteWorkers", "DeleteCluster", "DeleteSelf"]
    for place in ray_places():
        if place.job is None:
            continue
        job = place.job
        rules = job.get("deletionStrategy", {}).get("deletionRules", [])
        assert bool(rules) != bool(job.get("shutdownAfterJobFinishes")), f"{place.where}: one of the two"
        assert "ttlSecondsAfterFinished" not in job or job["shutdownAfterJobFinishes"], place.where
        assert not job.get("suspend") or job["shutdownAfterJobFinishes"], place.where
        if place.cluster.get("enableInTreeAutoscaling"):
            assert "DeleteWorkers" not in {rule["policy"] for rule in rules}, place.where
        for condition in ("jobStatus", "jobDeploymentStatus"):
            times = [
                (order.index(rule["policy"]), rule["condition"]["ttlSeconds"])
                for rule in rules
                if condition in rule["condition"]
            ]
            assert [ttl for _, ttl in sorted(times)] == sorted(ttl for _, ttl in times), place.where


def test_what_only_the_second_autoscaler_knows_is_used_with_it() -> None:
    for place in ray_places():
        options = place.cluster.get("autoscalerOptions", {})
        is_v2 = place.cluster.get("enableInTreeAutoscaling", False) and options.get("version") == "v2"
        for group in place.cluster["workerGroupSpecs"]:
            assert is_v2 or not {"priority", "idleTimeoutSeconds"} & set(group), place.where
        for spec in ray_pods(place.cluster):
            assert spec.get("restartPolicy", "Never") == "Never", place.where


def test_spot_comes_before_on_demand() -> None:
    cluster = one("overlays/gpu-spot", "RayCluster", "terrazzo")["spec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert groups["gpu-spot"]["priority"] > groups["gpu-ondemand"]["priority"]
    assert all(group["minReplicas"] == 0 for group in groups.values()), "a night without work costs no GPU"


@pytest.mark.parametrize("series", SERIES)
def test_a_template_never_fires_by_itself(series: str) -> None:
    for overlay in OVERLAYS:
        assert one(overlay, "RayCronJob", f"terrazzo-{series}-template")["spec"]["suspend"] is True


@pytest.mark.parametrize(("series", "period_s"), SERIES.items())
def test_a_cronjob_keeps_its_promises(series: str, period_s: int) -> None:
    for overlay in OVERLAYS:
        cronjob = one(overlay, "CronJob", f"terrazzo-{series}")["spec"]
        settings = series_settings(overlay, series)
        rayjob = one(overlay, "RayCronJob", settings.template)["spec"]["jobTemplate"]
        assert cronjob["concurrencyPolicy"] == "Forbid"
        assert cronjob["timeZone"] == settings.time_zone
        job = cronjob["jobTemplate"]["spec"]
        attempts_s = (rayjob["backoffLimit"] + 1) * rayjob["activeDeadlineSeconds"]
        assert attempts_s < settings.deadline_s < job["activeDeadlineSeconds"] < period_s
        [container] = job["template"]["spec"]["containers"]
        assert f"--config=/etc/terrazzo/nightly/{series}.yaml" in container["command"]
        assert job["template"]["spec"]["restartPolicy"] == "Never", "a podFailurePolicy needs it"
        [trigger] = container["env"]
        path = trigger["valueFrom"]["fieldRef"]["fieldPath"]
        assert path.endswith("controller-uid']"), "a name comes again: its RayJob of then would be found now"


def series_settings(overlay: str, series: str) -> NightlyConfig:
    [document] = [
        d
        for d in render(overlay)
        if d["kind"] == "ConfigMap" and d["metadata"]["name"].startswith("terrazzo-nightly-")
    ]
    return NightlyConfig.model_validate(yaml.safe_load(document["data"][f"{series}.yaml"]))


def test_what_waits_in_a_queue_is_created_suspended() -> None:
    queues = {d["metadata"]["name"] for d in render("overlays/kueue") if d["kind"] == "LocalQueue"}
    documents = [one("overlays/kueue", "RayCronJob", f"terrazzo-{series}-template") for series in SERIES]
    names = [name.split("/")[1] for name in ONE_SHOT if name.endswith("/kueue")]
    documents += [one(f"jobs/{name}/kueue", "RayJob", f"terrazzo-{name}") for name in names]
    for document in documents:
        job = document["spec"].get("jobTemplate", document["spec"])
        assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] in queues
        assert job["suspend"] is True
        assert "managedBy" not in job, "only MultiKueue sets it"
        assert "enableInTreeAutoscaling" not in job["rayClusterSpec"], "admitted as a whole"


def test_the_queue_has_room_for_one_run() -> None:
    queue = one("overlays/kueue", "ClusterQueue", "terrazzo")["spec"]
    flavors = {d["metadata"]["name"] for d in render("overlays/kueue") if d["kind"] == "ResourceFlavor"}
    [group] = queue["resourceGroups"]
    assert {flavor["name"] for flavor in group["flavors"]} == flavors
    template = one("overlays/kueue", "RayCronJob", "terrazzo-nightly-template")
    [workers] = template["spec"]["jobTemplate"]["rayClusterSpec"]["workerGroupSpecs"]
    [container] = workers["template"]["spec"]["containers"]
    assert set(container["resources"]["requests"]) <= set(group["coveredResources"])
    quota = {r["name"]: r["nominalQuota"] for r in group["flavors"][0]["resources"]}
    assert workers["replicas"] * int(container["resources"]["requests"]["nvidia.com/gpu"]) <= int(
        quota["nvidia.com/gpu"]
    )


UNITS = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def amount(quantity: str) -> float:
    """A quantity as Kubernetes writes it."""
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * UNITS.get(unit, 1)


def test_a_laptop_has_room_for_the_standing_cluster_and_one_run() -> None:
    """4 cores and 12 GiB, less what kind, CoreDNS and the operator ask for: about 1.1 cores and 0.9 GiB."""
    overlay = "overlays/cpu-small"
    cluster = one(overlay, "RayCluster", "terrazzo")["spec"]
    job = one(overlay, "RayCronJob", "terrazzo-nightly-template")["spec"]["jobTemplate"]
    cronjob = one(overlay, "CronJob", "terrazzo-nightly")["spec"]["jobTemplate"]["spec"]
    pods = [*ray_pods(cluster), *ray_pods(job["rayClusterSpec"])]
    assert all(group["maxReplicas"] == 1 for group in cluster["workerGroupSpecs"])
    pods += [job["submitterPodTemplate"]["spec"], cronjob["template"]["spec"]]
    requests = [container["resources"]["requests"] for pod in pods for container in pod["containers"]]
    assert sum(amount(request["cpu"]) for request in requests) <= 4 - 1.1
    assert sum(amount(request["memory"]) for request in requests) <= (12 - 0.9) * 2**30
    limits = [container["resources"]["limits"] for pod in pods for container in pod["containers"]]
    assert max(amount(limit["cpu"]) for limit in limits) <= 4


def test_every_name_that_a_pod_mentions_exists() -> None:
    """Accounts, settings and secrets; what is optional may be missing."""
    for overlay in OVERLAYS:
        known = {(d["kind"], d["metadata"]["name"]) for d in render(overlay)}
        for where, pod in pod_specs():
            if not where.startswith(overlay):
                continue
            assert ("ServiceAccount", pod["serviceAccountName"]) in known, where
            for volume in pod["volumes"]:
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in known, where
    for where, container in containers():
        for source in container.get("envFrom", []):
            assert source["secretRef"]["optional"] is True, f"{where}: with workload identity there is none"


def test_only_who_asks_kubernetes_holds_a_token() -> None:
    for where, document in all_documents():
        if document["kind"] == "ServiceAccount":
            assert document["automountServiceAccountToken"] is False, where
    for where, pod in pod_specs():
        allowed = {"terrazzo-nightly"} | ({"terrazzo-head"} if "gpu-spot" in where else set())
        assert pod["automountServiceAccountToken"] is (pod["serviceAccountName"] in allowed), where


def test_network_policies_meet_pods_that_exist() -> None:
    """A policy whose selector matches nothing protects, or opens, nothing."""
    components = {"head", "worker", "submitter", "nightly"}
    for overlay in OVERLAYS:
        policies = {d["metadata"]["name"]: d["spec"] for d in render(overlay) if d["kind"] == "NetworkPolicy"}
        assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        text = yaml.safe_dump(policies)
        named = set(re.findall(r"app.kubernetes.io/component: (\w+)", text))
        selector = policies["buckets-and-kubernetes"]["podSelector"]["matchExpressions"][0]
        assert named | set(selector["values"]) == components
        labels = set(re.findall(r"app.kubernetes.io/component: (\w+)", yaml.safe_dump(list(render(overlay)))))
        assert components <= labels
        [dashboard] = policies["dashboard"]["ingress"]
        assert dashboard["ports"] == [{"protocol": "TCP", "port": 8265}]
        assert all("podSelector" in peer for peer in dashboard["from"]), "nobody else"
