"""A rollout against a real kube-apiserver; what controllers and nodes would report, the tests write into statuses."""

import contextlib
import threading
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from components.core import kubernetes_objects
from components.core.errors import InputError, LostRaceError, OutOfReachError
from components.core.kubernetes_objects import Namespace
from components.core.parameters import ServingSettings, read
from components.rollout import rollout as module
from components.rollout import serve
from components.rollout.manifests import REVISION, Images, render
from components.rollout.rollout import Rollout
from tests.cluster.kube_apiserver import STEP, definitions

pytestmark = pytest.mark.slow

ROLE = Path(__file__).resolve().parents[2] / "images" / "rollout-role.yaml"
IMAGES = Images("example.com/cloud:1", "example.com/edge:1")
JOB = "s3://jobs/pair"
KINDS = {"Deployment": "deployments", "DaemonSet": "daemonsets"}


class Cluster:
    """A namespace, in which the step may do what its role says, and whose controllers are played."""

    def __init__(self, server, namespace, *, role=True):
        self.server, self.name = server, namespace
        self.admin = server.client()
        self.namespace = Namespace(server.client(STEP), namespace)
        self.outcome = self.succeed
        self.kserve = False
        if role:
            self.allow()

    def allow(self):
        api = client.RbacAuthorizationV1Api(self.admin)
        part, binding = yaml.safe_load_all(ROLE.read_text(encoding="utf-8"))
        api.create_namespaced_role(self.name, part)
        api.create_namespaced_role_binding(self.name, binding)

    def enforce(self, level):
        labels = {"pod-security.kubernetes.io/enforce": level}
        client.CoreV1Api(self.admin).patch_namespace(self.name, {"metadata": {"labels": labels}})

    def rollout(self, serving="deployment", job_root=JOB, timeout_s=60, fraction=0.95, namespace=None, **settings):
        chosen = read(
            ServingSettings, {"serving": serving, "serving_name": "pair", "edge_source": "rtsp://camera"} | settings
        )
        manifests = render(job_root, chosen, IMAGES, "edge-learning-store", self.name)
        return Rollout(
            namespace or self.namespace, "pair", manifests, timeout_s=timeout_s, fraction=fraction,
            sleep=lambda _: self.outcome(),
        )  # fmt: skip

    def objects(self):
        """Every object of the step, with what changes whenever it does."""
        paths = ["api/v1/configmaps", "api/v1/services", "apis/apps/v1/deployments", "apis/apps/v1/daemonsets"]
        paths += ["apis/autoscaling/v2/horizontalpodautoscalers"]
        if self.kserve:
            paths += ["apis/serving.kserve.io/v1beta1/inferenceservices"]
        found = {}
        for path in paths:
            group, _, plural = path.rpartition("/")
            answer = self.ask("GET", f"/{group}/namespaces/{self.name}/{plural}")
            for item in answer["items"]:
                found[f"{plural}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
        return found

    def ask(self, verb, path, body=None, kind="application/merge-patch+json"):
        return self.admin.call_api(
            path, verb, body=body, header_params={"Content-Type": kind, "Accept": "application/json"},
            auth_settings=["BearerToken"], response_type="object", _return_http_data_only=True,
        )  # fmt: skip

    def status(self, kind, name, **status):
        path = f"/apis/apps/v1/namespaces/{self.name}/{KINDS[kind]}/{name}/status"
        generation = self.namespace.read(kind, name)["metadata"]["generation"]
        self.ask("PATCH", path, {"status": {"observedGeneration": generation} | status})

    def succeed(self):
        """What controllers report of programs that run."""
        if deployment := self.namespace.read("Deployment", "pair-cloud"):
            wanted = deployment["spec"]["replicas"]
            counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
            self.status("Deployment", "pair-cloud", **counts, conditions=[])
        if daemons := self.namespace.read("DaemonSet", "pair-edge"):
            counts = dict.fromkeys(("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"), 2)
            self.status(
                "DaemonSet", "pair-edge", **counts, currentNumberScheduled=2, numberMisscheduled=0, numberReady=2
            )
            for number in range(2):
                self.pod(f"pair-edge-{number}", daemons["spec"]["template"])

    def pod(self, name, template):
        """A pod of a template that is ready, in place of one of another template."""
        api = client.CoreV1Api(self.admin)
        labels = template["metadata"]["labels"]
        with contextlib.suppress(client.ApiException):
            if api.read_namespaced_pod(name, self.name).metadata.labels == labels:
                return
            api.delete_namespaced_pod(name, self.name, grace_period_seconds=0)
        api.create_namespaced_pod(self.name, template | {"metadata": template["metadata"] | {"name": name}})
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        self.ask("PATCH", f"/api/v1/namespaces/{self.name}/pods/{name}/status", ready)

    def fail(self):
        """What they report of an image that is not there."""
        late = {
            "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
            "message": 'ReplicaSet "pair-cloud-1" has timed out progressing.',
        }  # fmt: skip
        self.status("Deployment", "pair-cloud", replicas=1, updatedReplicas=1, conditions=[late])

    def image(self, kind="Deployment", name="pair-cloud"):
        return self.namespace.read(kind, name)["spec"]["template"]["spec"]["containers"][0]["image"]


@pytest.fixture
def cluster(api_server, namespace):
    made = Cluster(api_server, namespace)
    made.enforce("privileged")  # for what an edge worker keeps on its node
    return made


def test_a_pod_that_the_namespace_does_not_admit_is_found_before_anything_is_applied(cluster):
    cluster.enforce("restricted")
    said = r'Pod pair-edge-check .* violates PodSecurity .*"data" uses .* type "hostPath"'
    with pytest.raises(InputError, match=said) as error:
        cluster.rollout().check()
    assert "rollout-role" not in str(error.value)  # which would not help
    api = client.CoreV1Api(cluster.admin)
    cluster.enforce("privileged")
    body = {"metadata": {"name": "small"}, "spec": {"hard": {"requests.cpu": "1500m"}}}
    api.create_namespaced_resource_quota(cluster.name, body)
    cluster.ask(
        "PATCH",
        f"/api/v1/namespaces/{cluster.name}/resourcequotas/small/status",
        {"status": body["spec"] | {"used": {"requests.cpu": "0"}}},
    )
    with pytest.raises(InputError, match=r"Pod pair-cloud-check .* exceeded quota: small, requested: requests.cpu=2"):
        cluster.rollout().check()
    assert not cluster.objects()


def test_the_role_is_enough_and_a_second_rollout_changes_nothing(cluster):
    cluster.rollout().check()
    assert not cluster.objects()
    cluster.rollout().run()
    first = cluster.objects()
    assert first.keys() == {
        "configmaps/pair-rollout", "services/pair-cloud", "deployments/pair-cloud", "daemonsets/pair-edge",
        "horizontalpodautoscalers/pair-cloud",
    }  # fmt: skip
    cluster.rollout().check()
    cluster.rollout().run()
    assert cluster.objects() == first


def test_a_new_image_is_rolled_out_and_other_fields_are_left_to_who_manages_them(cluster):
    cluster.rollout().run()
    scale = f"/apis/apps/v1/namespaces/{cluster.name}/deployments/pair-cloud/scale"
    cluster.ask("PATCH", scale, {"spec": {"replicas": 3}})  # as the autoscaler does
    annotated = f"/api/v1/namespaces/{cluster.name}/services/pair-cloud"
    cluster.ask("PATCH", annotated, {"metadata": {"annotations": {"team": "yard"}}})
    cluster.rollout(cloud_image="example.com/cloud:2").run()
    assert cluster.image() == "example.com/cloud:2"
    assert cluster.namespace.read("Deployment", "pair-cloud")["spec"]["replicas"] == 3
    assert cluster.namespace.read("Service", "pair-cloud")["metadata"]["annotations"]["team"] == "yard"


def test_what_somebody_changed_by_hand_is_set_again(cluster):
    cluster.rollout().run()
    path = f"/apis/apps/v1/namespaces/{cluster.name}/deployments/pair-cloud"
    changed = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "by-hand"}]
    cluster.ask("PATCH", path, changed, "application/json-patch+json")
    cluster.rollout().run()
    assert cluster.image() == "example.com/cloud:1"


@pytest.mark.parametrize("owner", ["nobody", "another job"])
def test_an_object_of_somebody_else_is_refused_and_nothing_is_changed(cluster, owner):
    if owner == "nobody":
        body = {"metadata": {"name": "pair-cloud"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "shop"}}}
        client.CoreV1Api(cluster.admin).create_namespaced_service(cluster.name, body)
        said = "Service pair-cloud in namespace .* belongs to nobody that it names, not to s3://jobs/pair: set another"
    else:
        cluster.rollout(job_root="s3://jobs/other").run()
        said = "pair-.* belongs to s3://jobs/other, not to s3://jobs/pair: set another serving_name"
    before = cluster.objects()
    for attempt in (cluster.rollout().check, cluster.rollout().run):
        with pytest.raises(InputError, match=said):
            attempt()
    assert cluster.objects() == before


def test_a_rollout_that_fails_is_put_back_as_a_whole_and_says_why(cluster):
    cluster.rollout(cloud_max_replicas=4).run()
    template = cluster.namespace.read("Deployment", "pair-cloud")["spec"]["template"]
    pod = {"metadata": template["metadata"] | {"name": "pair-cloud-1-x"}, "spec": template["spec"]}
    cluster.enforce("restricted")  # the template of the cloud server is of that level
    client.CoreV1Api(cluster.admin).create_namespaced_pod(cluster.name, pod)
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "example.com/cloud:none"'}
    container = {
        "name": "cloud-server", "image": "none", "imageID": "", "ready": False, "restartCount": 0,
        "state": {"waiting": waiting},
    }  # fmt: skip
    cluster.ask(
        "PATCH",
        f"/api/v1/namespaces/{cluster.name}/pods/pair-cloud-1-x/status",
        {"status": {"containerStatuses": [container]}},
    )
    cluster.outcome = cluster.fail
    with pytest.raises(InputError) as error:
        cluster.rollout(
            cloud_image="example.com/cloud:none", cloud_max_replicas=9, edge_image="example.com/edge:2"
        ).run()
    assert str(error.value) == (
        f'Deployment pair-cloud in namespace {cluster.name} does not run: ReplicaSet "pair-cloud-1" has timed out '
        'progressing; pod pair-cloud-1-x: ImagePullBackOff (Back-off pulling image "example.com/cloud:none"); what ran '
        "before was put back"
    )
    assert cluster.image() == "example.com/cloud:1"
    assert cluster.image("DaemonSet", "pair-edge") == "example.com/edge:1"
    assert cluster.namespace.read("HorizontalPodAutoscaler", "pair-cloud")["spec"]["maxReplicas"] == 4


def test_of_a_first_rollout_that_fails_nothing_is_left(cluster):
    cluster.outcome = cluster.fail
    with pytest.raises(InputError, match="what was applied was removed, since nothing ran before"):
        cluster.rollout().run()
    assert not cluster.objects()


def test_a_rollout_that_was_killed_is_taken_up_and_not_removed(cluster):
    cluster.outcome = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        cluster.rollout().run()
    cluster.outcome = cluster.fail
    with pytest.raises(InputError, match="nothing is on record to put back"):
        cluster.rollout().run()
    assert cluster.image() == "example.com/cloud:1"
    cluster.succeed()  # by and by
    cluster.rollout().run()
    assert "configmaps/pair-rollout" in cluster.objects()


def test_a_rollout_that_takes_too_long_fails_in_time(cluster):
    cluster.rollout().run()
    cluster.outcome = lambda: None
    with pytest.raises(
        InputError, match=r"does not run: not looked at by its controller yet after 0.2 s; what ran before"
    ):
        cluster.rollout(cloud_image="example.com/cloud:2", timeout_s=0.2).run()


def test_a_cluster_that_does_not_answer_for_a_moment_is_asked_again(cluster, monkeypatch):
    looks, original = [], Rollout._look

    def look(self, manifest):
        looks.append(manifest)
        if len(looks) == 1:
            raise OutOfReachError("the API server does not answer")
        return original(self, manifest)

    monkeypatch.setattr(Rollout, "_look", look)
    cluster.rollout().run()
    assert len(looks) > 2


def test_what_a_later_rollout_has_no_more_is_removed(cluster):
    _kserve(cluster)
    cluster.rollout().run()
    cluster.outcome = lambda: (cluster.succeed(), _play_kserve(cluster))
    cluster.rollout("kserve").run()
    assert cluster.objects().keys() == {
        "configmaps/pair-rollout", "services/pair-cloud", "daemonsets/pair-edge", "deployments/pair-predictor",
        "inferenceservices/pair",
    }  # fmt: skip


def test_an_inference_service_is_of_kserve_s_schema_and_awaited(cluster):
    _kserve(cluster)
    cluster.rollout("kserve").check()
    looks = []

    def play():
        looks.append(1)
        cluster.succeed()
        if len(looks) > 1:
            _play_kserve(cluster)

    cluster.outcome = play
    cluster.rollout("kserve").run()
    found = cluster.namespace.read("InferenceService", "pair")
    predictor = found["spec"]["predictor"]
    assert predictor["containers"][0]["image"] == "example.com/cloud:1"
    assert predictor["containers"][0]["startupProbe"]["httpGet"]["path"] == "/readyz"  # the schema knows every field
    assert predictor["terminationGracePeriodSeconds"] == 60
    assert (predictor["minReplicas"], predictor["maxReplicas"], predictor["scaleTarget"]) == (1, 4, 70)
    assert predictor["deploymentStrategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert len(looks) == 2
    before = cluster.objects()
    cluster.rollout("kserve").run()
    assert cluster.objects() == before


def _kserve(cluster):
    if not definitions("serving.kserve.io"):
        pytest.skip("no CustomResourceDefinition of KServe: run tests/cluster/build")
    cluster.server.define("serving.kserve.io")
    cluster.kserve = True


def _play_kserve(cluster):
    """What KServe does with an InferenceService."""
    service = cluster.namespace.read("InferenceService", "pair")
    if service is None:
        return
    template = {
        "metadata": {
            "labels": {"app": "isvc.pair-predictor", REVISION: service["spec"]["predictor"]["labels"][REVISION]}
        },
        "spec": {"containers": [{"name": "kserve-container", "image": "x"}]},
    }
    body = {
        "metadata": {"name": "pair-predictor"},
        "spec": {"selector": {"matchLabels": {"app": "isvc.pair-predictor"}}, "template": template},
    }
    if cluster.namespace.read("Deployment", "pair-predictor") is None:
        client.AppsV1Api(cluster.admin).create_namespaced_deployment(cluster.name, body)
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    cluster.status("Deployment", "pair-predictor", **counts)
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{cluster.name}/inferenceservices/pair/status"
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    cluster.ask("PATCH", path, {"status": {"conditions": [ready]}})


def test_two_runs_at_once_do_not_both_count(cluster):
    cluster.rollout().run()

    def overtake(image="example.com/cloud:3"):
        cluster.outcome = cluster.succeed
        cluster.rollout(cloud_image=image).run()

    cluster.outcome = overtake
    with pytest.raises(LostRaceError, match="another run has rolled out at the same time"):
        cluster.rollout(cloud_image="example.com/cloud:2").run()

    def overtake_and_fail():
        overtake("example.com/cloud:4")
        cluster.fail()

    cluster.outcome = overtake_and_fail
    with pytest.raises(InputError, match="another run has rolled out in the meantime, so that nothing was put back"):
        cluster.rollout(cloud_image="example.com/cloud:2").run()
    assert cluster.image() == "example.com/cloud:4"


def test_of_two_first_runs_at_once_one_counts(cluster):
    def overtake():
        cluster.outcome = cluster.succeed
        cluster.rollout(cloud_image="example.com/cloud:3").run()

    cluster.outcome = overtake
    with pytest.raises(LostRaceError, match="another run has rolled out at the same time"):
        cluster.rollout(cloud_image="example.com/cloud:2").run()
    record = cluster.namespace.read("ConfigMap", "pair-rollout")["data"]["manifests"]
    assert "example.com/cloud:3" in record
    assert cluster.image() == "example.com/cloud:3"


def test_edge_workers_that_another_run_changes_are_not_waited_for(cluster):
    cluster.rollout().run()

    def overtake():
        cluster.outcome = cluster.succeed
        cluster.rollout(edge_image="example.com/edge:3").run()

    cluster.outcome = overtake
    with pytest.raises(LostRaceError, match="DaemonSet pair-edge was changed: another run rolls out at the same time"):
        cluster.rollout(edge_image="example.com/edge:2", cloud_max_replicas=5).run()
    assert cluster.image("DaemonSet", "pair-edge") == "example.com/edge:3"


def test_an_edge_image_whose_new_pods_crash_is_put_back_although_old_ones_run(cluster):
    cluster.rollout().run()

    def first_of_two():
        counts = {"desiredNumberScheduled": 2, "updatedNumberScheduled": 1, "numberAvailable": 1}
        cluster.status(
            "DaemonSet", "pair-edge", **counts, currentNumberScheduled=2, numberMisscheduled=0, numberReady=1
        )

    cluster.outcome = first_of_two
    with pytest.raises(InputError, match="does not run: 0 of 2 nodes run a new pod after 1 s; what ran before was put"):
        cluster.rollout(edge_image="example.com/edge:none", fraction=0.5, timeout_s=1).run()
    assert cluster.image("DaemonSet", "pair-edge") == "example.com/edge:1"


def test_a_missing_right_a_missing_kind_and_a_wrong_token_are_one_line_each(api_server, namespace):
    cluster = Cluster(api_server, namespace, role=False)
    with pytest.raises(
        InputError, match=r"forbidden.*: give the step's service account the rights of images/rollout-role"
    ):
        cluster.rollout().check()
    cluster.allow()
    stranger = Namespace(api_server.client("wrong"), namespace)
    with pytest.raises(InputError, match="ConfigMap pair-rollout in namespace .*: Unauthorized"):
        cluster.rollout(namespace=stranger).check()
    with pytest.raises(InputError, match="Deployment pair-cloud .*quantities must match|Deployment pair-cloud.*: "):
        bad = cluster.rollout()
        bad._manifests[1]["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "much"
        bad.check()


def test_a_kind_that_the_cluster_lacks_is_named(cluster, monkeypatch):
    resources = kubernetes_objects._RESOURCES
    monkeypatch.setitem(resources, "InferenceService", resources["InferenceService"].replace("kserve", "absent"))
    with pytest.raises(InputError, match="InferenceService pair .*: the cluster lacks this kind of object"):
        cluster.rollout("kserve", namespace=Namespace(cluster.admin, cluster.name)).check()


def test_a_damaged_record_says_what_to_do(cluster):
    cluster.rollout().run()
    path = f"/api/v1/namespaces/{cluster.name}/configmaps/pair-rollout"
    cluster.ask("PATCH", path, {"data": {"manifests": "[{"}})
    with pytest.raises(InputError, match="ConfigMap pair-rollout is damaged: delete it"):
        cluster.rollout().run()


def test_the_step_uses_the_service_account_of_its_pod(cluster, tmp_path, monkeypatch):
    """From the settings to the cluster, as the step does it in a pod."""
    account = tmp_path / "account"
    account.mkdir()
    (account / "namespace").write_text(cluster.name)
    monkeypatch.setattr(kubernetes_objects, "_ACCOUNT", account)
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda chosen: _take(chosen, cluster.server))
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(serve, "Job", _WithChampion)
    chosen = read(ServingSettings, {"serving": "deployment"})
    applied, original = [], Namespace.apply
    with monkeypatch.context() as spying:
        spying.setattr(Namespace, "apply", lambda *what, **how: applied.append(what[1]) or original(*what, **how))
        serve.check(JOB, chosen, IMAGES, "edge-learning-store", 0.95)
    # Those that will run, since a cluster may admit images of some registries alone.
    pods = [one["spec"]["containers"][0]["image"] for one in applied if one["kind"] == "Pod"]
    assert pods == [IMAGES.cloud, IMAGES.edge]
    with _controllers(cluster):
        serve.serve(JOB, chosen, IMAGES, "edge-learning-store", 0.95)
    worker = cluster.namespace.read("DaemonSet", "pair-edge")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "EDGE_CLOUD_URL", "value": f"http://pair-cloud.{cluster.name}:8080"} in worker["env"]


@contextlib.contextmanager
def _controllers(cluster):
    stop = threading.Event()

    def play():
        while not stop.wait(0.05):
            cluster.succeed()

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _take(chosen, server):
    other = server.client(STEP).configuration
    chosen.host, chosen.ssl_ca_cert, chosen.api_key = other.host, other.ssl_ca_cert, other.api_key
    chosen.proxy = None


class _WithChampion:
    @staticmethod
    def open(_):
        return _WithChampion

    @staticmethod
    def read():
        return type("State", (), {"champion": "r0001-1"}), None
