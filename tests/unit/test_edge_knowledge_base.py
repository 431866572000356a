"""The edge worker with a knowledge base: frames go to the model of their task, and releases change as a whole."""

import json
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from components.core import plugins
from components.core.errors import InputError
from components.core.job.hard_examples import read_sidecars
from components.core.job.job import Job
from components.core.job.state import Canary
from components.core.lifelong.knowledge_base import Chosen
from components.core.lifelong.plug_points import make, task_allocations
from components.core.lifelong.samples import Samples
from components.deploy.canary import settle_canary
from components.deploy.pointer import publish_pointer
from components.serving.active_model import ActiveModel
from components.serving.hot_update import HotUpdate, Loader
from components.serving.inference import FAILURES, ModelRunner
from components.serving.loaded_models import LoadedModels
from components.serving.model_cache import GOOD_KEPT, CachedModel, ModelCache
from components.serving.pointers import WHOLE, JobPointer
from components.serving.status import StatusReport
from components.serving.worker import Worker
from tests.counting import count_requests
from tests.edge import images, options, status
from tests.knowledge_base import publish_member, release, routing, sites
from tests.models import BUNDLE

RED = np.full((64, 96, 3), (255, 0, 0), np.uint8)
SMOKE_TEST = Loader.try_out


@pytest.fixture(autouse=True)
def no_smoke_tests(monkeypatch):
    """A process for each model of each test would take most of the time."""
    monkeypatch.setattr(Loader, "try_out", lambda *_: 1000)


@pytest.fixture
def smoke_tests(no_smoke_tests, monkeypatch):
    monkeypatch.setattr(Loader, "try_out", SMOKE_TEST)


@pytest.fixture
def job(tmp_path):
    return Job.open(str(tmp_path / "job"))


def run(tmp_path, source, **others):
    """A worker's life over a source; what it wrote of each frame, and itself."""
    written = tmp_path / "found.jsonl"
    written.unlink(missing_ok=True)
    worker = Worker(options(tmp_path, source, sinks=(f"jsonl:{written}",), **({"miner": "EdgeOnly"} | others)))
    assert worker.run(threading.Event())
    return [json.loads(line) for line in written.read_text().splitlines()], worker


def test_each_frame_goes_to_the_model_of_its_task_and_results_keep_the_order(job, tmp_path, smoke_tests):
    base = routing({"a": "a", "b": "b", "rare": "shared"})
    release(job, tmp_path, "first", MEMBERS, base)
    lines, worker = run(tmp_path, sites(tmp_path / "images", a=5, b=5, rare=2))
    assert [line["frame"] for line in lines] == list(range(12))
    names = sorted(path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").rglob("*.jpg"))
    expected = {"a": "a1", "b": "b1", "rare": "s1"}
    assert [(line["task"], line["model"]) for line in lines] == [
        (site := name.partition("/")[0], expected[site]) for name in names
    ]
    assert not any("unseen" in line for line in lines)
    assert worker.metrics.value("unseen") == 0
    assert (status(job).version, status(job).state, status(job).frames) == ("first", "loaded", 12)


@pytest.mark.parametrize("policy", ["fallback", "alarm", "abstain"])
def test_unseen_frames_are_treated_by_the_policy_and_kept_with_their_scores(job, tmp_path, policy, caplog):
    looks = [(images(1)[0] * light).astype(np.uint8) for light in (1, 0.99, 0.98, 0.97)]
    base = routing({"a": "a"}, unseen="knn", threshold=10, policy=policy, looks=looks)
    release(job, tmp_path, "first", {"shared": "s1", "a": "a1"}, base)
    folder = sites(tmp_path / "images", a=4, new=2)
    for path, image in zip(sorted((folder / "a").iterdir()), [*looks[:3], looks[3] // 4], strict=True):
        path.write_bytes(_png(image))
    lines, worker = run(tmp_path, folder)
    assert [line["task"] for line in lines] == ["a", "a", "a", None, None, None]
    reasons = [line.get("unseen", "") for line in lines]
    assert reasons[:3] == [""] * 3
    assert reasons[3] == f"score {lines[3]['score']:.4g} is above 10"
    assert reasons[4:] == ["task new is not known"] * 2
    assert [line["model"] for line in lines[3:]] == ["first" if policy == "abstain" else "s1"] * 3
    assert all(line["detections"] == [] for line in lines[3:]) == (policy == "abstain")
    assert ("unseen image" in caplog.text) == (policy == "alarm")
    assert worker.metrics.value("unseen") == 3
    kept = sorted(read_sidecars(job.store), key=lambda one: one.frame)
    assert [(one.frame, one.kind, one.miner) for one in kept] == [(n, "unseen", "knn") for n in (3, 4, 5)]
    assert [one.reason for one in kept] == [f"unseen: {reason}" for reason in reasons[3:]]
    assert [one.score for one in kept] == pytest.approx([line["score"] / (line["score"] + 10) for line in lines[3:]],
                                                        abs=1e-3)  # fmt: skip


def _png(image):
    import cv2

    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


@pytest.mark.parametrize(("origin", "task"), [("a", "a"), ("a/", "a"), ("a/gate-3", "a"), ("", None)])
def test_a_source_without_paths_has_the_origin_that_it_is_given(job, tmp_path, origin, task):
    release(job, tmp_path, "first", {"shared": "s1", "a": "a1"})
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").write_bytes(_png(images(1)[0]))
    (line,), _ = run(tmp_path, folder, origin=origin)
    assert line["task"] == task
    assert line.get("unseen", "") == ("" if task else "it belongs to no task")


def test_attributes_are_found_in_the_origin_too(job, tmp_path):
    by_light = Chosen(
        name="TaskDefinitionByDataAttr",
        parameters={"pattern": "^(?P<site>[^/]+)/(?P<light>day|night)", "attribute": ["light"]},
    )
    base = routing({"day": "a", "night": "b"}).model_copy(update={"definition": by_light})
    release(job, tmp_path, "first", MEMBERS, base)
    images = sites(tmp_path / "images", a=2)
    lines, _ = run(tmp_path, images, origin="site-9/night")
    assert [line["task"] for line in lines] == ["night", "night"]


def test_one_member_of_a_knowledge_base_can_be_run_alone(job, tmp_path):
    release(job, tmp_path, "first", {"shared": "s1", "a": "a1"})
    lines, _ = run(tmp_path, sites(tmp_path / "images", new=2), member="a")
    assert [(line["model"], "task" in line) for line in lines] == [("a1", False)] * 2


def test_another_member_is_run_from_the_first_frame_on_whatever_its_classes(job, tmp_path):
    for version, classes in (("s1", BUNDLE.classes), ("a1", ("gate", "fence"))):
        publish_member(job, tmp_path, version, bundle=replace(BUNDLE, classes=classes))
    release(job, tmp_path, "first", {"shared": "s1", "a": "a1"})
    for number, (member, model) in enumerate((("a", "a1"), ("shared", "s1"))):
        lines, _ = run(tmp_path, sites(tmp_path / f"images-{number}", a=12), member=member)
        assert [line["model"] for line in lines] == [model] * 12


# Memory


def models(count, size):
    cached = [CachedModel(f"v{n}", None, f"{n:064}") for n in range(count)]
    return cached, lambda _: size


def test_models_that_were_not_used_for_longest_make_room_and_one_is_always_kept():
    cached, size = models(4, 10)
    counted = []
    memory = LoadedModels(25, size, counted.append)
    loads = []

    def use(n):
        memory.get(cached[n], lambda model: loads.append(model.version))

    for n in (0, 1, 0, 2, 0, 1):
        use(n)
    assert loads == ["v0", "v1", "v2", "v1"], "v1 made room for v2, not v0, which was used later"
    assert (len(memory), memory.bytes) == (2, 20)
    assert (counted.count("model_loads"), counted.count("model_evictions")) == (4, 2)
    memory.keep([cached[0].digest])
    assert len(memory) == 1
    small = LoadedModels(5, size)
    for one in cached:
        small.get(one, lambda model: model)
        assert len(small) == 1
    ahead = LoadedModels(25, size)
    ahead.preload(cached, lambda model: model)
    assert len(ahead) == 2


def test_frames_that_wait_are_taken_by_task_so_that_models_are_loaded_less_often(job, tmp_path, monkeypatch):
    release(job, tmp_path, "first", {"shared": "s1", "a": "a1", "b": "b1"})
    folder = sites(tmp_path / "images", a=8, b=8)
    for number, path in enumerate(sorted(folder.rglob("*.jpg"), key=lambda path: path.name)):
        (tmp_path / "mixed" / f"{number:04}" / path.parent.name).mkdir(parents=True)
        path.rename(tmp_path / "mixed" / f"{number:04}" / path.parent.name / path.name)
    by_site = Chosen(name="TaskDefinitionByDataAttr", parameters={"pattern": "/(a|b)/"})
    base = routing({"a": "a", "b": "b"}).model_copy(update={"definition": by_site})
    release(job, tmp_path, "second", {"shared": "s1", "a": "a1", "b": "b1"}, base)
    loads = {}
    for at_once in (1, 8):
        monkeypatch.setattr("components.serving.loop.FRAMES_AT_ONCE", at_once)
        lines, worker = run(tmp_path, tmp_path / "mixed", model_memory=1, folder=tmp_path / f"worker-{at_once}")
        assert [line["model"] for line in lines] == ["a1", "b1"] * 8
        loads[at_once] = worker.metrics.value("model_loads")
    assert loads[1] == 16
    assert loads[8] <= 8


# Releases


class Site:
    """An updater, and in place of the loop somebody who takes what it hands over."""

    def __init__(self, job, folder, runtime="onnx", memory=1 << 30):
        plugins.load("tests.fragile_runtime")
        self.slot = ActiveModel(proven_after=2)
        self.shelf = ModelCache(folder / "models", runtime)
        self.memory = LoadedModels(memory, self.shelf.bytes_of)
        self.updater = HotUpdate(
            JobPointer(job.store, "edge-1", WHOLE),
            self.shelf,
            Loader(runtime, 1, "tests.fragile_runtime", memory=self.memory),
            self.slot,
            StatusReport(job.store, "edge-1", lambda: self.slot.frames),
            poll_s=0.01,
        )
        self.runner = ModelRunner(self.slot, _untimed)

    def turn(self):
        self.updater._look(threading.Event())
        model = self.slot.next()
        self.updater._follow_loop()
        return model

    def use(self, *places):
        """Look at images; the versions of the models that answered."""
        found = self.runner.look_at([(RED, place) for place in places or ("a/1", "b/1")])
        self.updater._follow_loop()
        return [one if isinstance(one, str) else one.model.cached.members[one.route.member].version for one in found]


class _untimed:  # noqa: N801 - a context, as the metrics give one
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


MEMBERS = {"shared": "s1", "a": "a1", "b": "b1"}


@pytest.fixture
def site(job, tmp_path):
    """A worker that has a release in use and proven."""
    release(job, tmp_path, "first", MEMBERS)
    site = Site(job, tmp_path)
    assert site.turn().version == "first"
    assert site.use() == ["a1", "b1"]
    return site


def on_disk(tmp_path):
    return sorted(path.name.rpartition("-")[0] for path in (tmp_path / "models").iterdir() if path.is_dir())


def test_only_members_that_changed_are_fetched_tried_and_loaded(site, job, tmp_path, monkeypatch):
    assert job.read()[0].vouched["first"] == site.slot.current.cached.digest
    tried = []
    monkeypatch.setattr(Loader, "try_out", lambda _, model, __: tried.append(model.version) or 1)
    asked = count_requests(monkeypatch)
    kept = site.slot.current.base.network("b")
    release(job, tmp_path, "second", MEMBERS | {"a": "a2", "c": "c1"})
    assert site.turn().version == "second"
    assert sum(count for request, count in asked.items() if request.startswith("download")) == 4
    assert tried == ["a2", "c1"]
    assert site.slot.current.base.network("b") is kept
    assert site.use("a/1", "b/1", "c/1", "d/1") == ["a2", "b1", "c1", "s1"]
    assert (status(job).version, status(job).state) == ("second", "loaded")


def test_an_unchanged_pointer_is_not_read_again(site, job, monkeypatch):
    asked = count_requests(monkeypatch)
    assert site.turn().version == "first"
    assert not any(request.startswith("read") for request in asked)


def test_members_of_two_releases_are_kept_on_disk_and_no_more(site, job, tmp_path):
    for number in (2, 3, 4):
        release(job, tmp_path, f"r{number}", MEMBERS | {"a": f"a{number}"})
        assert site.turn().version == f"r{number}"
        site.use()
    assert GOOD_KEPT == 2
    assert on_disk(tmp_path) == ["a3", "a4", "b1", "r3", "r4", "s1"]
    assert set(site.shelf._state.memory) == {
        part.digest for model in site.shelf.good() for part in model.parts.values()
    }
    assert len(site.memory) == 3
    job.roll_back()
    publish_pointer(job)
    assert site.turn().version == "r3"
    assert site.use() == ["a3", "b1"]


def refused(site, job, tmp_path, says, caplog, version="second"):
    """One turn in which a release is refused as a whole, in one line."""
    before = on_disk(tmp_path)
    assert site.turn().version == "first"
    assert (status(job).version, status(job).state) == (version, "failed")
    assert says in status(job).error
    assert "\n" not in status(job).error
    assert caplog.text.count(f"{version} cannot be used, continuing with first") == 1
    assert site.use() == ["a1", "b1"]
    assert on_disk(tmp_path) == before
    assert site.turn().version == "first"


@pytest.mark.parametrize(("name", "says"), [("model.onnx", "was changed"), ("model.json", "was changed")])
def test_a_damaged_member_refuses_the_release_as_a_whole(site, job, tmp_path, name, says, caplog):
    release(job, tmp_path, "second", MEMBERS | {"a": "a2", "b": "b2"})
    key = f"bundles/b2/{name}"
    data = job.store.read(key)
    job.store.write(key, data[:-1] + bytes([data[-1] ^ 1]))
    refused(site, job, tmp_path, "member b: ", caplog)
    job.store.write(key, data)
    job.roll_back("first")
    release(job, tmp_path, "second", MEMBERS | {"a": "a2", "b": "b2"})
    assert site.turn().version == "second", "a newer move of the pointer is tried"


def test_a_member_that_crashes_refuses_the_release_as_a_whole(job, tmp_path, caplog, smoke_tests):
    release(job, tmp_path, "first", MEMBERS)
    site = Site(job, tmp_path, "fragile")
    site.turn()
    site.use()
    bad = publish_member(job, tmp_path, "b2", bundle=replace(BUNDLE, lineage={"fault": "crash"}))
    release(job, tmp_path, "second", MEMBERS | {"a": "a2", "b": bad})
    refused(site, job, tmp_path, "member b: it crashes the process that runs it (SIGSEGV)", caplog)


def test_a_router_that_knows_a_lost_task_refuses_the_release(site, job, tmp_path, caplog):
    looks = Samples.of(images(4))
    router = make(task_allocations, "router", {}).fit(looks, ["a", "a", "c", "c"])
    base = routing({"a": "a", "b": "b"}, allocation=Chosen(name="router", state=router))
    release(job, tmp_path, "second", MEMBERS | {"a": "a2"}, base)
    refused(site, job, tmp_path, "router knows task c, which the knowledge base does not", caplog)


@pytest.mark.parametrize(
    ("base", "says"),
    [
        (routing({"a": "a", "c": "c"}), "second has no member c, which its tasks name"),
        (routing({"a": "a"}).model_copy(update={"definition": Chosen(name="by-weather")}),
         "unknown task definition 'by-weather'"),
        (routing({"a": "a"}).model_copy(update={"policy": "shrug"}), "unknown unseen policy 'shrug'"),
        (routing({"a": "a"}, unseen="knn").model_copy(update={"unseen": Chosen(name="knn")}), "KeyError: 'references'"),
    ],
)  # fmt: skip
def test_routing_that_cannot_be_used_refuses_the_release(site, job, tmp_path, base, says, caplog):
    release(job, tmp_path, "second", MEMBERS, base)
    refused(site, job, tmp_path, says, caplog)


def test_a_release_without_the_shared_model_is_refused(site, job, tmp_path, caplog):
    release(job, tmp_path, "second", {"a": "a2", "b": "b1"}, routing({"a": "a", "b": "b"}))
    refused(site, job, tmp_path, "has no member 'shared'", caplog)


def test_members_for_different_kinds_of_tasks_refuse_the_release(site, job, tmp_path, caplog):
    from tests.unit.test_edge_kinds import SEGMENTS, segmenter

    other = publish_member(job, tmp_path, "b2", segmenter(), SEGMENTS)
    release(job, tmp_path, "second", MEMBERS | {"b": other})
    refused(site, job, tmp_path, "its members are for detection and segmentation", caplog)


def test_a_pair_needs_a_member_and_says_which_there_are(job, tmp_path):
    release(job, tmp_path, "first", {"shared": "s1", "big": "b1"}, routing({}).model_copy(update={}))
    made = json.loads(job.store.read("champion.json"))
    made["routing"] = {"miner": "IBT"}
    job.store.write("champion.json", json.dumps(made).encode())
    with pytest.raises(InputError, match="no knowledge base; choose --member from big, shared"):
        JobPointer(job.store, "edge-1", WHOLE).read()


def test_a_member_that_fails_in_use_takes_the_release_back_as_a_whole(job, tmp_path):
    release(job, tmp_path, "first", MEMBERS)
    site = Site(job, tmp_path, "fragile")
    site.turn()
    site.use()
    bad = publish_member(job, tmp_path, "b2", bundle=replace(BUNDLE, lineage={"fault": "raise"}))
    release(job, tmp_path, "second", MEMBERS | {"a": "a2", "b": bad})
    site.turn()
    assert site.use("b/1", "a/1") == ["b1", "a2"], "the model of task a had looked at its frame by then"
    assert site.use("a/2") == ["a1"]
    assert site.slot.current.version == "first"
    assert (status(job).version, status(job).state) == ("second", "failed")
    assert "does not answer" in status(job).error


def test_a_member_that_fails_counts_by_itself_whatever_the_others_do(job, tmp_path):
    release(job, tmp_path, "first", MEMBERS)
    site = Site(job, tmp_path, "fragile")
    site.turn()
    site.use()
    bad = publish_member(job, tmp_path, "b2", bundle=replace(BUNDLE, lineage={"fault": "raise", "after": 2}))
    release(job, tmp_path, "second", MEMBERS | {"b": bad})
    site.turn()
    assert site.use("b/1", "b/2") == ["b2", "b2"]
    for _ in range(FAILURES - 1):
        assert "inference failed" in site.use("b/3", "a/1")[0]
    assert site.slot.current.version == "second"
    site.use("b/4", "a/1")
    assert site.slot.next().version == "first", "from the disk"


def test_a_knowledge_base_needs_no_network_once_it_is_here(site, job, tmp_path):
    offline = Site(Job.open(str(tmp_path / "nowhere")), tmp_path)
    assert offline.updater.start_from_disk()
    assert offline.slot.next().version == "first"
    assert offline.use() == ["a1", "b1"]


def test_of_two_releases_on_disk_the_one_before_is_taken_where_a_member_is_damaged(site, job, tmp_path, caplog):
    release(job, tmp_path, "second", MEMBERS | {"a": "a2"})
    folder = site.turn().cached.members["a"].folder
    site.use()
    (folder / "model.onnx").write_bytes(b"half")
    again = Site(job, tmp_path)
    assert again.updater.start_from_disk()
    assert again.slot.next().version == "first"
    assert "cached model second can no longer be used" in caplog.text


def test_class_numbers_are_those_of_the_release_whatever_a_member_calls_them(job, tmp_path):
    turned = publish_member(job, tmp_path, "b1", bundle=replace(BUNDLE, classes=("blue", "red")))
    release(job, tmp_path, "first", MEMBERS | {"b": turned})
    site = Site(job, tmp_path)
    site.turn()
    assert site.slot.current.detector.bundle.classes == ("red", "blue")
    by_a, by_b = site.runner.look_at([(RED, "a/1"), (RED, "b/1")])
    assert set(by_a.found.classes) == {0}
    assert set(by_b.found.classes) == {1}, "its class 0 is blue"


def test_the_shared_model_looks_at_the_frames_of_a_task_too_where_it_is_asked_to(job, tmp_path):
    turned = publish_member(job, tmp_path, "b1", bundle=replace(BUNDLE, classes=("blue", "red")))
    base = routing({"a": "a", "b": "b"}).model_copy(
        update={"remodeling": Chosen(name="with-shared"), "integration": Chosen(name="merge")}
    )
    release(job, tmp_path, "first", MEMBERS | {"b": turned}, base)
    site = Site(job, tmp_path)
    site.turn()
    by_shared, by_a, by_b = site.runner.look_at([(RED, "elsewhere/1"), (RED, "a/1"), (RED, "b/1")])
    assert len(by_shared.found) == len(by_a.found) > 0, "both models find the same"
    assert by_a.route.models == ("a", "shared")
    assert set(by_b.found.classes) == {0, 1}, "its class 0 is blue, that of the shared model red"


def test_a_canary_of_a_knowledge_base_is_for_its_workers_alone(site, job, tmp_path):
    release(job, tmp_path, "second", MEMBERS | {"a": "a2"}, point=False)
    state, etag = job.read()
    until = datetime.now(UTC) + timedelta(hours=1)
    canary = Canary(version="second", nodes=("edge-1",), frames=2, until=until, why="x")
    job.commit(state.trying(canary), etag)
    publish_pointer(job)
    assert JobPointer(job.store, "edge-2", WHOLE).read().version == "first"
    assert site.turn().version == "second"
    assert settle_canary(job, datetime.now(UTC)).outcome == "canary"
    site.use()
    site.updater._status.beat(now=True)
    assert settle_canary(job, datetime.now(UTC)).outcome == "promoted"
    assert site.turn().version == "second"
    assert JobPointer(job.store, "edge-2", WHOLE).read().version == "second"


# A process that is killed


def changes_the_disk(event, arguments, folder):
    """Whether an audited event is about to change a file or folder in a folder."""
    if event == "open":
        path, _, flags = arguments
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return isinstance(path, str) and path.startswith(folder) and writes
    return event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") and folder in str(arguments[0])


def killed_at(change, folder, work):
    """Do some work in another process, which is killed before it changes a folder for the nth time; whether it was."""
    process = os.fork()
    if process == 0:
        seen = [0]

        def hook(event, arguments):
            if changes_the_disk(event, arguments, str(folder)):
                seen[0] += 1
                if seen[0] == change:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, found = os.waitpid(process, 0)
    assert os.WIFSIGNALED(found) or os.WEXITSTATUS(found) == 0
    return os.WIFSIGNALED(found)


def test_a_worker_that_is_killed_at_any_change_of_its_disk_has_the_old_release_or_the_new_one(job, tmp_path):
    release(job, tmp_path, "zero", {"shared": "s0", "a": "a0"})

    def follow(folder):
        cache = ModelCache(folder, "onnx")
        model = cache.bring(JobPointer(job.store, "edge-1", WHOLE).read())
        for part in cache.untried(model).values():
            cache.measured(part, 1000)
        cache.begin(model)
        cache.accept(model)

    start = tmp_path / "start"
    follow(start)
    release(job, tmp_path, "first", MEMBERS)
    follow(start)
    release(job, tmp_path, "second", MEMBERS | {"a": "a2"})
    outcomes, change = [], 0
    while True:
        change += 1
        folder = tmp_path / f"killed-{change}"
        shutil.copytree(start, folder)
        killed = killed_at(change, folder, lambda folder=folder: follow(folder))
        cache = ModelCache(folder, "onnx")
        last = cache.good()[0]
        assert set(last.members) == {"shared", "a", "b"}
        for part in last.members.values():
            assert (part.folder / "model.onnx").read_bytes() == (tmp_path / part.version / "model.onnx").read_bytes()
        outcomes.append(last.version)
        follow(folder)
        whole = {path.name.rpartition("-")[0] for path in folder.iterdir() if path.is_dir()}
        assert whole == {"first", "second", "s1", "a1", "b1", "a2"}
        if not killed:
            break
    assert outcomes == sorted(outcomes), "once it is the new one, it stays"
    assert outcomes.count("first") > 10 and outcomes.count("second") > 5
