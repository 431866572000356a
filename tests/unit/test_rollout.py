"""What a rollout applies, and how it reads what becomes of it."""

from pathlib import Path

import pytest
import yaml

from components import images
from components.core.errors import InputError
from components.core.parameters import ServingSettings, check_settings, read
from components.rollout.manifests import Images, name_of, render, selector
from components.rollout.progress import of_daemon_set, of_deployment, of_inference_service, reasons
from tests.kubernetes_manifests import check, not_restricted, pod_of

IMAGES = Path(__file__).resolve().parents[2] / "images"
SHIPPED = sorted(path for path in IMAGES.rglob("*.yaml") if path.name != "alerts.yaml")  # which is Prometheus's
# A worker keeps what has to outlive its pod on the node, and says so.
ON_THE_NODE = ["volume data"]


def rendered(serving="deployment", job_root="s3://jobs/pair", **settings):
    chosen = read(ServingSettings, {"serving": serving} | settings)
    found = render(job_root, chosen, Images(images.CLOUD, images.EDGE), "edge-learning-store", "vision")
    return {one["kind"]: one for one in found}


def environment(manifest):
    (container,) = pod_of(manifest)["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_what_is_shipped_is_of_the_schema_and_restricted(path):
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        check(manifest)
        if (pod := pod_of(manifest)) and path.name != "cache-claim.yaml":  # whose pod is there to change an owner
            assert not_restricted(pod) == (ON_THE_NODE if path.name == "worker.yaml" else [])


@pytest.mark.parametrize("serving", ["deployment", "kserve"])
def test_what_is_rendered_is_of_the_schema_restricted_and_of_the_job(serving):
    for kind, manifest in rendered(serving).items():
        check(manifest)
        if pod := pod_of(manifest):
            assert not_restricted(pod) == (ON_THE_NODE if kind == "DaemonSet" else [])
            assert pod["automountServiceAccountToken"] is False
        metadata = manifest["metadata"]
        assert metadata["name"].startswith("pair")
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "edge-learning"
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "edge-learning"
        assert metadata["labels"]["app.kubernetes.io/instance"] == "pair"
        assert metadata["annotations"]["edge-learning/job-root"] == "s3://jobs/pair"


@pytest.mark.parametrize("rule", ["privileged", "runAsUser", "hostNetwork", "volume disk", "capabilities"])
def test_a_pod_that_breaks_a_rule_is_found(rule):
    pod = pod_of(rendered()["Deployment"])
    context = pod["containers"][0]["securityContext"]
    if rule == "privileged":
        context["privileged"] = True
    elif rule == "runAsUser":
        context["runAsUser"] = 0
    elif rule == "hostNetwork":
        pod["hostNetwork"] = True
    elif rule == "capabilities":
        context["capabilities"]["add"] = ["SYS_ADMIN"]
    else:
        pod["volumes"].append({"name": "disk", "hostPath": {"path": "/"}})
    assert [found.removeprefix("cloud-server: ") for found in not_restricted(pod)] == [rule]


def test_server_and_worker_are_those_of_the_job_and_find_each_other():
    tolerated = [{"key": "node-role.kubernetes.io/edge", "operator": "Exists"}]
    parts = rendered(
        cloud_secret="the-token", edge_source="rtsp://camera/stream", edge_node_selector={"zone": "gate"},
        edge_tolerations=tolerated, cloud_node_selector={"zone": "hall"}, cloud_tolerations=[{"operator": "Exists"}],
    )  # fmt: skip
    server, worker = environment(parts["Deployment"]), environment(parts["DaemonSet"])
    assert (server["CLOUD_JOB_ROOT"], server["CLOUD_MEMBER"]) == ("s3://jobs/pair", "big")
    assert (worker["EDGE_JOB_ROOT"], worker["EDGE_MEMBER"]) == ("s3://jobs/pair", "little")
    assert worker["EDGE_SOURCE"] == "rtsp://camera/stream"
    service = parts["Service"]
    assert (
        worker["EDGE_CLOUD_URL"] == f"http://{service['metadata']['name']}.vision:{service['spec']['ports'][0]['port']}"
    )
    assert worker["EDGE_CLOUD_TOKEN"] == {"secretKeyRef": {"name": "the-token", "key": "CLOUD_TOKEN"}}
    (container,) = pod_of(parts["Deployment"])["containers"]
    assert {"secretRef": {"name": "the-token"}} in container["envFrom"]
    assert pod_of(parts["DaemonSet"])["nodeSelector"] == {"zone": "gate"}
    assert pod_of(parts["DaemonSet"])["tolerations"] == tolerated
    assert pod_of(parts["Deployment"])["nodeSelector"] == {"zone": "hall"}
    assert pod_of(parts["Deployment"])["tolerations"] == [{"operator": "Exists"}]
    assert service["spec"]["selector"].items() <= parts["Deployment"]["spec"]["template"]["metadata"]["labels"].items()


def test_two_jobs_in_a_namespace_share_nothing():
    first, second = rendered(), rendered(job_root="s3://jobs/other")
    for kind, manifest in first.items():
        assert manifest["metadata"]["name"] != second[kind]["metadata"]["name"]
        assert selector(manifest) != selector(second[kind])
    spools = {environment(parts["DaemonSet"])["EDGE_SPOOL"] for parts in (first, second)}
    assert spools == {"/data/pair", "/data/other"}


def test_the_source_comes_from_the_secret_if_none_is_named():
    assert "EDGE_SOURCE" not in environment(rendered()["DaemonSet"])


@pytest.mark.parametrize("source", ["/dev/video0", "0", "/videos/yard.mp4", "videos", "/database/yard.mp4"])
def test_a_source_that_a_pod_does_not_see_is_refused(source):
    with pytest.raises(
        InputError, match=f"edge_source={source}: .* sees only /var/lib/edge-learning, as /data: give a"
    ):
        rendered(edge_source=source)


@pytest.mark.parametrize("source", ["rtsp://camera/stream", "/data/yard.mp4"])
def test_a_source_that_a_pod_sees_is_taken(source):
    assert environment(rendered(edge_source=source)["DaemonSet"])["EDGE_SOURCE"] == source
    (container,) = pod_of(rendered()["DaemonSet"])["containers"]
    assert "/data" in [one["mountPath"] for one in container["volumeMounts"]]


def test_images_resources_and_replicas_are_those_asked_for():
    parts = rendered(
        cloud_image="example.com/cloud:7", cloud_cpu="8", cloud_memory="9Gi", cloud_replicas=2, cloud_max_replicas=6,
        edge_image="example.com/edge:7", serving_timeout=99,
    )  # fmt: skip
    (container,) = pod_of(parts["Deployment"])["containers"]
    assert container["image"] == "example.com/cloud:7"
    assert container["resources"] == {"requests": {"cpu": "8", "memory": "9Gi"}, "limits": {"memory": "9Gi"}}
    assert pod_of(parts["DaemonSet"])["containers"][0]["image"] == "example.com/edge:7"
    scale = parts["HorizontalPodAutoscaler"]["spec"]
    assert (scale["minReplicas"], scale["maxReplicas"]) == (2, 6)
    assert scale["scaleTargetRef"]["name"] == parts["Deployment"]["metadata"]["name"] == "pair-cloud"
    assert "replicas" not in parts["Deployment"]["spec"]  # they are the autoscaler's
    assert parts["Deployment"]["spec"]["progressDeadlineSeconds"] == 99


def test_kserve_runs_the_same_pod_behind_a_service_of_ours():
    plain, kserve = rendered(cloud_max_replicas=6), rendered("kserve", cloud_max_replicas=6)
    assert kserve.keys() == {"Service", "InferenceService", "DaemonSet"}
    predictor, pod = kserve["InferenceService"]["spec"]["predictor"], pod_of(plain["Deployment"])
    assert predictor["containers"][0] | {"name": "cloud-server"} == pod["containers"][0]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 6)
    assert predictor["deploymentStrategy"] == plain["Deployment"]["spec"]["strategy"]
    assert kserve["Service"]["spec"]["selector"].items() <= predictor["labels"].items()
    assert kserve["Service"] == plain["Service"]
    # KServe makes Services called as the InferenceService, and with -predictor behind it.
    assert kserve["Service"]["metadata"]["name"] not in ("pair", "pair-predictor")


def test_a_new_image_is_another_revision_and_more_replicas_are_not():
    def revision(**settings):
        return rendered("kserve", **settings)["InferenceService"]["spec"]["predictor"]["labels"][
            "edge-learning/revision"
        ]

    assert revision() == revision(cloud_max_replicas=9) != revision(cloud_image="other")


@pytest.mark.parametrize(
    ("job_root", "name"),
    [
        ("s3://jobs/pair", "pair"),
        ("s3://jobs/Yard_2/", "yard-2"),
        ("s3://b/2024-gate", "gate"),
        ("s3://b/" + "x" * 99, "x" * 40),
    ],
)
def test_names_come_from_the_job(job_root, name):
    assert name_of(job_root, read(ServingSettings, {})) == name
    assert name_of(job_root, read(ServingSettings, {"serving_name": "mine"})) == "mine"


def test_what_pods_could_not_use_is_refused():
    with pytest.raises(InputError, match="set serving_name"):
        name_of("s3://jobs/2024", read(ServingSettings, {}))
    with pytest.raises(InputError, match="/tmp/job is a folder, which pods cannot reach"):
        rendered(job_root="/tmp/job")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"edge_source": "rtsp://me:hunter2@camera/1"}, "edge_source holds a password"),
        ({"cloud_replicas": 5}, "cloud_max_replicas=4: must be at least cloud_replicas=5"),
        ({"serving_timeout": 86400}, "serving_timeout=86400: must be a whole number >= 1 and <= 6600"),
        ({"serving": "helm"}, "serving='helm': must be one of none, deployment, kserve"),
        ({"cloud_url": "cloud:8080"}, "must be http://host:port or https://host, without a password"),
        ({"cloud_url": "https://me:hunter2@cloud"}, "must be http://host:port or https://host, without a password"),
        ({"serving_name": "Pair"}, "must be a Kubernetes name of at most 40 characters"),
        ({"edge_node_selector": {"a b": "c"}}, "must be a Kubernetes label"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(InputError) as error:
        check_settings(settings)
    assert said in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_source_with_a_query_and_without_a_password_is_no_secret():
    check_settings({"edge_source": "rtsp://camera/stream?channel=1"})


def deployment(generation=2, observed=2, wanted=2, conditions=(), **status):
    return {
        "metadata": {"generation": generation},
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": observed, "conditions": list(conditions)} | status,
    }


DONE = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
LATE = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "it has timed out"}
FORBIDDEN = {"type": "ReplicaFailure", "status": "True", "message": "violates PodSecurity"}


@pytest.mark.parametrize(
    ("given", "done", "failed", "said"),
    [
        (deployment(observed=1, **DONE), False, False, "not looked at"),
        (deployment(**DONE), True, False, "2 of 2 new pods are available"),
        (deployment(**DONE | {"availableReplicas": 1}), False, False, "1 of 2 new pods are available"),
        (deployment(**DONE | {"replicas": 3, "availableReplicas": 3}), False, False, "1 old ones are left"),
        (deployment(wanted=3, **DONE), False, False, "2 of 3"),
        (deployment(conditions=[LATE], replicas=2, updatedReplicas=1), False, True, "it has timed out"),
        (deployment(conditions=[FORBIDDEN]), False, False, "0 of 2 new pods are available: violates PodSecurity"),
    ],
)  # fmt: skip
def test_the_progress_of_a_deployment(given, done, failed, said):
    progress = of_deployment(given)
    assert (progress.done, progress.failed) == (done, failed)
    assert said in progress.said


def daemon_set(wanted, updated, available):
    return {
        "metadata": {"generation": 1},
        "status": {
            "observedGeneration": 1, "desiredNumberScheduled": wanted, "updatedNumberScheduled": updated,
            "numberAvailable": available,
        },
    }  # fmt: skip


def of_ready(*statuses):
    """Pods by whether they are ready, as a function lists them."""
    conditions = [{"type": "Ready", "status": str(status)} for status in statuses]
    return lambda: [{"metadata": {"name": "a"}, "status": {"conditions": [one]}} for one in conditions]


@pytest.mark.parametrize(("available", "done"), [(18, False), (19, True), (20, True)])
def test_nodes_that_are_away_do_not_hold_up_a_daemon_set(available, done):
    pods = of_ready(*[True] * available, *[False] * (20 - available))
    assert of_daemon_set(daemon_set(20, 20, available), pods, 0.95).done == done


def test_an_old_pod_that_runs_does_not_count_for_a_new_one_that_crashes():
    daemons = daemon_set(wanted=2, updated=1, available=1)
    assert of_daemon_set(daemons, of_ready(False), 0.5).said == "0 of 2 nodes run a new pod"
    assert not of_daemon_set(daemons, of_ready(False), 0.5).done
    assert of_daemon_set(daemons, of_ready(True), 0.5).done


def test_a_new_pod_that_is_being_deleted_does_not_count():
    (pod,) = of_ready(True)()
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not of_daemon_set(daemon_set(1, 1, 1), lambda: [pod], 1).done


def test_pods_are_not_listed_while_too_few_of_them_can_be_new():
    assert not of_daemon_set(daemon_set(20, 1, 19), lambda: 1 / 0, 0.95).done


def test_a_daemon_set_without_nodes_says_so():
    daemons = rendered()["DaemonSet"] | {"metadata": {"generation": 1}, "status": {"observedGeneration": 1}}
    progress = of_daemon_set(daemons, list, 0.95)
    assert progress.done
    assert "no node that may be used has the labels {'edge-learning/worker': 'true'}" in progress.said


def test_pods_of_another_edge_image_are_known_by_a_label():
    def labels(**settings):
        return rendered(**settings)["DaemonSet"]["spec"]["template"]["metadata"]["labels"]

    assert labels() == labels(cloud_image="other") != labels(edge_image="other")
    assert labels().keys() == labels(edge_image="other").keys()


def test_an_inference_service_runs_when_the_deployment_of_its_revision_does():
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    failed = {"status": {"modelStatus": {"lastFailureInfo": {"message": "no such runtime"}}}}
    of_now = deployment(**DONE)
    of_now["spec"]["template"] = {"metadata": {"labels": {"edge-learning/revision": "now"}}}
    assert "no such runtime" in of_inference_service(failed, None, "now").said
    assert not of_inference_service(ready, of_now, "next").done
    assert of_inference_service(ready, of_now, "now").done
    late = deployment(conditions=[LATE], updatedReplicas=1) | {"spec": of_now["spec"]}
    assert not of_inference_service(ready, late, "now").failed, "its deadline is not serving_timeout"
    assert not of_inference_service(
        {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, of_now, "now"
    ).done


def pod(name, **container):
    return {"metadata": {"name": name}, "status": {"containerStatuses": [{"ready": False} | container]}}


def test_pods_say_why_they_do_not_run_each_reason_once():
    pull = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    crash = {"terminated": {"exitCode": 1, "reason": "Error", "message": "starting\nerror: no token\n"}}
    found = reasons(
        [
            pod("a", state={"waiting": {"reason": "ContainerCreating"}}),
            pod("b", state=pull),
            pod("c", state=pull),
            pod("d", state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, lastState=crash),
            pod("e", ready=True, state={"running": {}}, lastState=crash),
        ]
    )
    assert found == (
        "pod b: ImagePullBackOff (Back-off pulling image); pod d: CrashLoopBackOff (exit code 1, error: no token)"
    )


def test_of_pods_without_a_reason_it_is_told_how_far_they_are():
    creating = pod("a", state={"waiting": {"reason": "ContainerCreating"}})  # as long as a folder of the node is absent
    running = pod("b", state={"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    ready = pod("c", ready=True, state={"running": {}})
    ready["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert reasons([creating, running, ready]) == (
        "pod a: ContainerCreating (kubectl describe pod says what it waits for); "
        "pod b: runs, but is not ready (kubectl logs says why)"
    )
    assert reasons([ready]) == ""


def test_the_page_names_the_folder_that_each_edge_node_needs():
    (volume,) = [one for one in pod_of(rendered()["DaemonSet"])["volumes"] if "hostPath" in one]
    page = (IMAGES.parent / "docs" / "joint-inference.md").read_text(encoding="utf-8")
    assert volume["hostPath"]["type"] == "Directory"
    assert f"install -d -o 1000 -g 1000 {volume['hostPath']['path']}`" in page


def test_a_pod_that_no_node_holds_says_so():
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    waiting = {"metadata": {"name": "a"}, "status": {"conditions": [condition]}}
    assert reasons([waiting]) == "pod a: Unschedulable (0/1 nodes)"
