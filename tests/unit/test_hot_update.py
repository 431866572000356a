import errno
import json
import threading
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from components.core import plugins
from components.core.bundle import Bundle, sha256_of
from components.core.errors import InputError, NoRuntimeError
from components.core.job.fleet import POINTER, SEDNA_POINTER, Pointer
from components.core.job.job import Job
from components.core.release import Member, Release
from components.deploy.pointer import publish_pointer
from components.serving import memory, model_cache
from components.serving.active_model import ActiveModel
from components.serving.hot_update import HotUpdate, Loader
from components.serving.model_cache import LIVES, ModelCache, UnfitModelError
from components.serving.pointers import JobPointer, SednaPointer
from components.serving.smoke_test import InterruptedSmokeTestError, run_smoke_test
from components.serving.status import BEAT_SECONDS, StatusReport
from tests.counting import count_requests
from tests.edge import deploy, point_at, status
from tests.models import BUNDLE, colour_model, write_bundle

IMAGE = np.full((64, 96, 3), (255, 0, 0), np.uint8)


@pytest.fixture
def job(tmp_path):
    return Job.open(str(tmp_path / "job"))


class Site:
    """An updater and, in place of the loop, somebody who takes the models it hands over."""

    def __init__(self, job, folder, runtime="onnx", pointer=None):
        plugins.load("tests.fragile_runtime")
        self.slot = ActiveModel(proven_after=2)
        self.shelf = ModelCache(folder / "models", runtime)
        self.counts = []
        self.updater = HotUpdate(
            pointer or JobPointer(job.store, "edge-1"),
            self.shelf,
            Loader(runtime, 1, "tests.fragile_runtime"),
            self.slot,
            StatusReport(job.store, "edge-1", lambda: self.slot.frames),
            poll_s=0.01,
            count=self.counts.append,
        )

    def turn(self):
        """One look at the pointer, and the loop taking what there is; the model in use."""
        self.updater._look(threading.Event())
        model = self.slot.next()
        self.updater._follow_loop()
        return model

    def use(self, images=2):
        """Look at images, as the loop does."""
        for _ in range(images):
            self.slot.current.detector.predict([IMAGE])
            self.slot.succeeded(self.slot.current)
        self.updater._follow_loop()


@pytest.fixture
def site(job, tmp_path):
    """A worker that has model v1 in use and proven."""
    deploy(job, "v1", tmp_path / "v1")
    site = Site(job, tmp_path)
    assert site.turn().version == "v1"
    site.use()
    return site


def put(job, version, name, change):
    key = f"bundles/{version}/{name}"
    job.store.write(key, change(job.store.read(key)))


def from_disk(site):
    """The version that a worker begins with that has been started again."""
    assert site.updater.start_from_disk()
    return site.slot.next().version


def refused(site, job, version="v2"):
    """One turn in which a model is refused; why."""
    assert site.turn().version == "v1"
    told = status(job)
    assert (told.version, told.state) == (version, "failed")
    return told.error


def test_a_worker_follows_the_pointer_and_says_so(site, job, tmp_path):
    told = status(job)
    assert (told.version, told.state) == ("v1", "loaded")
    deploy(job, "v2", tmp_path / "v2")
    assert site.turn().version == "v2"
    assert (status(job).version, status(job).state) == ("v2", "loaded")
    assert site.turn().version == "v2"
    assert site.counts == ["model_swaps", "model_swaps"]


def test_only_what_the_runtime_needs_is_fetched(site, job, tmp_path):
    folder = write_bundle(tmp_path / "v2", colour_model())
    (folder / "model.pt").write_bytes(b"weights")
    Bundle.read(folder)
    BUNDLE.write(folder)
    job.registry.publish(folder, "v2")
    point_at(job, "v2")
    on_disk = site.turn().cached.folder
    assert {path.name for path in on_disk.iterdir()} == {"model.json", "model.onnx"}
    assert set(Bundle.read(on_disk).files) == {"model.onnx"}


def test_a_model_one_byte_smaller_is_never_mixed_with_the_old_one(job, tmp_path):
    deploy(job, "v1", tmp_path / "v1", padding=101)
    site = Site(job, tmp_path)
    site.turn()
    site.use()
    deploy(job, "v2", tmp_path / "v2", padding=100)
    sizes = [(tmp_path / version / "model.onnx").stat().st_size for version in ("v1", "v2")]
    assert sizes[0] - sizes[1] == 1
    new = site.turn().cached.folder / "model.onnx"
    assert new.read_bytes() == (tmp_path / "v2" / "model.onnx").read_bytes()
    old = next(tmp_path.glob("models/v1-*/model.onnx"))
    assert old.read_bytes() == (tmp_path / "v1" / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("model.onnx", lambda data: data[:-1], "is incomplete"),
        ("model.onnx", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "was changed"),
        ("model.json", lambda data: data.replace(b"colours", b"colourz"), "was changed"),
    ],
)
def test_a_model_that_is_not_the_published_one_is_refused_once(site, job, tmp_path, name, change, says, caplog):
    deploy(job, "v2", tmp_path / "v2")
    put(job, "v2", name, change)
    assert says in refused(site, job)
    said = caplog.text.count("cannot be used, continuing with v1")
    assert said == 1
    assert refused(site, job)
    assert caplog.text.count("cannot be used") == said
    put(job, "v2", name, lambda _: (tmp_path / "v2" / name).read_bytes())
    assert refused(site, job), "the same order is not tried again"
    point_at(job, "v1")
    assert site.turn().version == "v1"
    assert (status(job).version, status(job).state) == ("v1", "loaded")
    point_at(job, "v2")
    assert site.turn().version == "v2", "a newer move of the pointer is"


def test_a_failure_is_remembered_over_a_restart(site, job, tmp_path):
    deploy(job, "v2", tmp_path / "v2")
    put(job, "v2", "model.onnx", lambda data: data[:-1])
    refused(site, job)
    put(job, "v2", "model.onnx", lambda _: (tmp_path / "v2" / "model.onnx").read_bytes())
    again = Site(job, tmp_path)
    assert again.updater.start_from_disk()
    assert "is incomplete" in refused(again, job)


@pytest.mark.parametrize(
    ("classes", "taken"),
    [
        (("red", "blue", "green"), True),
        (("blue", "red"), True),
        (("red",), False),
        (("blue", "green", "red"), False),
        (("red", "green"), False),
    ],
)
def test_a_model_must_know_the_classes_of_the_old_one(site, job, tmp_path, classes, taken):
    bundle = replace(BUNDLE, classes=classes)
    deploy(job, "v2", tmp_path / "v2", model_of(len(classes)), bundle)
    if taken:
        assert site.turn().version == "v2"
    else:
        assert "must stay" in refused(site, job)


def model_of(classes):
    """A model for another number of classes; it finds something everywhere."""
    from onnx import helper, numpy_helper

    from tests.models import model, port

    nodes, outputs, constants = [], [], []
    for scale in (0, 1):
        rows, columns = 64 // (8 << scale), 96 // (8 << scale)
        for name, channels in (("box", 4), ("cls", classes)):
            constants.append(
                numpy_helper.from_array(np.full((1, channels, rows, columns), 0.5, np.float32), f"c{name}{scale}")
            )
            nodes.append(helper.make_node("Identity", [f"c{name}{scale}"], [f"{name}{scale}"]))
            outputs.append(port(f"{name}{scale}", 1, channels, rows, columns))
    return model(nodes, [port("images", 1, 3, 64, 96)], outputs, constants)


def test_going_back_to_a_model_with_fewer_classes_is_fine(site, job, tmp_path):
    deploy(job, "v2", tmp_path / "v2", model_of(3), replace(BUNDLE, classes=("red", "blue", "green")))
    assert site.turn().version == "v2"
    site.use()
    point_at(job, "v1")
    assert site.turn().version == "v1"


@pytest.mark.parametrize("broken", [("weights", "never"), ("weights",), ("half0",), ("half1",)])
def test_a_model_whose_outputs_are_no_numbers_is_refused_be_it_at_one_scale_alone(site, job, tmp_path, broken):
    graph = colour_model()
    for constant in graph.graph.initializer:
        if constant.name in broken:
            shape = list(constant.dims)
            constant.raw_data = np.full(shape, np.nan, np.float32).tobytes()
    deploy(job, "v2", tmp_path / "v2", graph)
    assert "not finite numbers" in refused(site, job)


def test_a_model_that_brings_down_its_process_does_not_bring_down_the_worker(job, tmp_path):
    deploy(job, "v1", tmp_path / "v1")
    site = Site(job, tmp_path, "fragile")
    site.turn()
    site.use()
    deploy(job, "v2", tmp_path / "v2", bundle=replace(BUNDLE, lineage={"fault": "crash"}))
    assert "SIGSEGV" in refused(site, job)
    assert not list((tmp_path / "models").glob("v2-*"))


def test_a_model_that_kills_the_worker_itself_is_given_up(job, tmp_path):
    deploy(job, "v1", tmp_path / "v1")
    order = JobPointer(job.store, "edge-1").read()
    for _ in range(LIVES):
        shelf = ModelCache(tmp_path / "models", "onnx")
        shelf.begin(shelf.bring(order))
    shelf = ModelCache(tmp_path / "models", "onnx")
    with pytest.raises(UnfitModelError, match="crashed"):
        shelf.begin(shelf.bring(order))


def test_a_model_that_kills_the_worker_is_given_up_though_the_one_before_proves_itself_each_time(site, job, tmp_path):
    deploy(job, "v2", tmp_path / "v2")
    for _ in range(LIVES):
        life = Site(job, tmp_path)
        life.updater.start_from_disk()
        life.slot.next()
        life.updater._look(threading.Event())
        life.use()
        assert life.slot.next().version == "v2"  # which ends this life
    last = Site(job, tmp_path)
    last.updater.start_from_disk()
    last.slot.next()
    assert "crashed" in refused(last, job)


def test_a_worker_that_ends_as_it_should_does_not_count_against_its_model(job, tmp_path):
    deploy(job, "v1", tmp_path / "v1")
    order = JobPointer(job.store, "edge-1").read()
    for _ in range(2 * LIVES):
        shelf = ModelCache(tmp_path / "models", "onnx")
        shelf.begin(shelf.bring(order))
        shelf.pause()


def test_a_trial_ends_at_its_time_limit_and_with_the_worker(site, tmp_path):
    folder = site.slot.current.cached.folder
    with pytest.raises(UnfitModelError, match="time limit"):
        run_smoke_test(folder, "onnx", threads=1, modules="", stop=threading.Event(), seconds=0)
    stop = threading.Event()
    stop.set()
    started = time.monotonic()
    with pytest.raises(InterruptedSmokeTestError):
        run_smoke_test(folder, "onnx", threads=1, modules="", stop=stop)
    assert time.monotonic() - started < 1


def test_a_model_whose_runtime_prints_much_passes_its_trial(tmp_path):
    folder = write_bundle(tmp_path / "v1", colour_model(), replace(BUNDLE, lineage={"fault": "print"}))
    took = run_smoke_test(folder, "fragile", threads=1, modules="tests.fragile_runtime", stop=threading.Event())
    assert took > 0


def test_a_model_that_takes_too_much_memory_is_refused_in_one_line(site):
    folder = site.slot.current.cached.folder
    with pytest.raises(UnfitModelError, match="^it needs more memory than is free on this machine, 20 MiB$"):
        run_smoke_test(folder, "onnx", threads=1, modules="", stop=threading.Event(), max_bytes=20 << 20)


def test_what_is_free_is_what_the_machine_and_the_container_have(monkeypatch, tmp_path):
    machine = memory.free_bytes()
    assert 0 < machine < 1 << 50
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 50000\n")
    assert memory.free_bytes() == 350_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() > 350_000


def test_the_last_good_model_needs_no_network(site, job, tmp_path):
    offline = Site(Job.open(str(tmp_path / "nowhere")), tmp_path)
    assert offline.updater.start_from_disk()
    assert offline.slot.next().version == "v1"
    assert len(offline.slot.current.detector.predict([IMAGE])[0])


def test_of_two_good_models_the_one_before_is_taken_where_the_last_is_damaged(site, job, tmp_path, caplog):
    deploy(job, "v2", tmp_path / "v2")
    last = site.turn().cached.folder / "model.onnx"
    site.use()
    last.write_bytes(last.read_bytes()[:-5])
    again = Site(job, tmp_path)
    assert from_disk(again) == "v1"
    assert "cached model v2 can no longer be used" in caplog.text
    assert again.turn().version == "v2", "and the damaged one is fetched anew"


def test_two_good_models_are_kept_on_disk(site, job, tmp_path):
    for number in (2, 3, 4):
        deploy(job, f"v{number}", tmp_path / f"v{number}")
        site.turn()
        site.use()
    folders = sorted(path.name.partition("-")[0] for path in (tmp_path / "models").iterdir() if path.is_dir())
    assert folders == ["v3", "v4"]


def test_a_model_that_proves_itself_while_the_next_one_is_fetched_leaves_that_on_disk(job, tmp_path):
    deploy(job, "v1", tmp_path / "v1")
    site = Site(job, tmp_path)
    site.turn()
    deploy(job, "v2", tmp_path / "v2")
    site.updater._look(threading.Event())
    site.use()
    site.slot.next()
    site.use()
    assert from_disk(Site(job, tmp_path)) == "v2"


def test_a_model_that_fails_while_the_next_one_waits_gives_way_to_that(site, job, tmp_path):
    deploy(job, "v2", tmp_path / "v2")
    site.updater._look(threading.Event())
    site.slot.go_back(site.slot.current, "the device does not answer")
    site.updater._follow_loop()
    assert site.slot.next().version == "v2"
    site.use()
    assert from_disk(Site(job, tmp_path)) == "v2"


def test_the_model_before_stays_until_the_new_one_has_proven_itself(site, job, tmp_path):
    deploy(job, "v2", tmp_path / "v2")
    site.turn()
    assert site.slot.before.version == "v1"
    site.use(1)
    assert site.slot.before.version == "v1"
    site.use(1)
    assert site.slot.before is None


def test_a_model_that_fails_in_use_gives_way_to_the_one_before(site, job, tmp_path):
    deploy(job, "v2", tmp_path / "v2")
    site.turn()
    failed = site.slot.current
    for _ in range(2):  # as two threads say of the same model
        site.slot.go_back(failed, "the device does not answer")
    site.slot.succeeded(failed)  # and a third one, which is late
    assert site.slot.current.version == "v1"
    assert site.slot.frames == 0
    site.updater._follow_loop()
    assert "does not answer" in refused(site, job)
    again = Site(job, tmp_path)
    again.updater.start_from_disk()
    assert "does not answer" in refused(again, job), "also in another life"


def test_a_proven_model_that_fails_gives_way_to_the_one_on_disk(site, job, tmp_path):
    deploy(job, "v2", tmp_path / "v2")
    site.turn()
    site.use()
    site.slot.go_back(site.slot.current, "the device does not answer")
    assert site.slot.current is None
    site.updater._follow_loop()
    assert site.slot.next().version == "v1"
    site.updater._follow_loop()
    assert "does not answer" in refused(site, job)


def test_on_a_full_disk_too_a_model_that_fails_gives_way_and_is_reported(site, job, tmp_path, monkeypatch, caplog):
    deploy(job, "v2", tmp_path / "v2")
    site.turn()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(model_cache, "landing", full)
        site.use()
        site.slot.go_back(site.slot.current, "the device does not answer")
        site.updater._follow_loop()
        assert "No space left on device" in caplog.text
        assert site.slot.next().version == "v1"
        assert "does not answer" in refused(site, job)
    deploy(job, "v3", tmp_path / "v3")
    site.turn()
    site.use()
    assert [model.version for model in Site(job, tmp_path).shelf.good()] == ["v3", "v1"]


def test_a_model_from_disk_that_fails_before_the_pointer_was_read_is_not_fetched_again(site, job, tmp_path):
    again = Site(job, tmp_path)
    again.updater.start_from_disk()
    again.slot.next()
    again.slot.go_back(again.slot.current, "the device does not answer")
    again.updater._follow_loop()
    assert again.turn() is None
    assert (status(job).version, status(job).state) == ("v1", "failed")


def test_a_store_out_of_reach_is_no_failure_of_the_model(site, job, tmp_path, monkeypatch):
    deploy(job, "v2", tmp_path / "v2")

    def broken(*_):
        raise InputError("the store is out of reach")

    with monkeypatch.context() as patched:
        patched.setattr(ModelCache, "bring", broken)
        with pytest.raises(InputError):
            site.turn()
    assert status(job).version == "v1"
    assert site.turn().version == "v2"


def test_a_machine_without_the_runtime_speaks_against_no_model(job, tmp_path, monkeypatch):
    deploy(job, "v1", tmp_path / "v1")
    site = Site(job, tmp_path, "fragile")
    with monkeypatch.context() as patched:
        patched.setenv("FRAGILE_RUNTIME", "missing")
        for _ in range(2):
            with pytest.raises(NoRuntimeError, match="^runtime fragile: there is no device here$"):
                site.turn()
    assert status(job) is None
    assert site.counts == []
    assert site.turn().version == "v1", "once it is there, the same model is taken"


def test_a_machine_that_lost_its_runtime_keeps_its_models(job, tmp_path, monkeypatch):
    deploy(job, "v1", tmp_path / "v1")
    site = Site(job, tmp_path, "fragile")
    site.turn()
    site.use()
    with monkeypatch.context() as patched:
        patched.setenv("FRAGILE_RUNTIME", "missing")
        with pytest.raises(NoRuntimeError):
            Site(job, tmp_path, "fragile").updater.start_from_disk()
    assert from_disk(Site(job, tmp_path, "fragile")) == "v1"


def test_a_stale_copy_of_the_pointer_is_not_followed(site, job, tmp_path):
    stale = job.store.read(POINTER)
    deploy(job, "v2", tmp_path / "v2")
    assert site.turn().version == "v2"
    job.store.write(POINTER, stale)
    assert site.turn().version == "v2"


def test_a_clock_that_steps_back_does_not_hide_a_newer_model(site, job, tmp_path):
    deploy(job, "v2", tmp_path / "v2")
    pointer = Pointer.model_validate_json(job.store.read(POINTER))
    earlier = pointer.model_copy(update={"updated": pointer.updated - timedelta(days=400)})
    job.store.write(POINTER, earlier.model_dump_json().encode())
    assert site.turn().version == "v2"


@pytest.mark.parametrize("fault", ["half", "version"])
def test_a_pointer_that_is_none_is_said_once_and_changes_nothing(site, job, caplog, fault):
    pointer = Pointer.model_validate_json(job.store.read(POINTER))
    texts = {
        "half": b'{"move": ',
        "version": pointer.model_copy(update={"version": "v" * 5000}).model_dump_json().encode(),
    }
    job.store.write(POINTER, texts[fault])
    stop = threading.Event()
    threading.Timer(0.8, stop.set).start()
    site.updater.run(stop)
    assert caplog.text.count("is not a valid pointer") == 1
    assert site.slot.current.version == "v1"


def test_a_model_on_trial_is_for_its_workers_alone(job, tmp_path):
    deploy(job, "v1", tmp_path / "v1")
    job.registry.publish(write_bundle(tmp_path / "v2", colour_model()), "v2")
    pointer = json.loads(job.store.read(POINTER))
    trial = {**{key: pointer[key] for key in ("uri", "files")}, "version": "v2", "nodes": ["edge-2"]}
    job.store.write(POINTER, json.dumps(pointer | {"trial": trial}).encode())
    assert JobPointer(job.store, "edge-1").read().version == "v1"
    assert JobPointer(job.store, "edge-2").read().version == "v2"


def test_sednas_model_config_is_followed_when_its_time_changes(job, tmp_path):
    deploy(job, "v1", tmp_path / "v1")
    site = Site(job, tmp_path, pointer=SednaPointer(str(tmp_path / "job" / SEDNA_POINTER)))
    assert site.turn().version == "v1"
    assert (status(job).version, status(job).state) == ("v1", "loaded")
    deploy(job, "v2", tmp_path / "v2")
    assert site.turn().version == "v2"
    assert site.counts == ["model_swaps", "model_swaps"]


def test_sednas_own_folder_of_one_model_is_followed_though_its_clock_steps_back(job, tmp_path):
    folder = tmp_path / "model-hot-update"
    config = folder / "model_config.json"
    site = Site(job, tmp_path, pointer=SednaPointer(str(config)))
    assert site.turn() is None
    versions = []
    for time_, padding in (("2026-11-20 10:00:00 +0000 UTC", 100), ("2026-11-19 09:00:00 +0000 UTC", 99)):
        graph = colour_model()
        entry = graph.metadata_props.add()
        entry.key, entry.value = "padding", "x" * padding
        write_bundle(folder, graph)
        model = {"model_path": str(folder / "model.onnx"), "model_update_time": time_}
        config.write_text(json.dumps({"model_config": model}))
        versions.append(site.turn().version)
        assert (
            site.slot.current.cached.folder.joinpath("model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
        )
    assert len(set(versions)) == 2
    assert site.turn().version == versions[1]


def test_the_status_is_written_again_every_minute_with_the_frames(job):
    now, frames = [1000.0], [7]
    report = StatusReport(job.store, "edge-1", lambda: frames[0], clock=lambda: now[0])
    report.say("v1", "loaded")
    assert status(job).frames == 7
    frames[0] = 9
    report.beat()
    assert status(job).frames == 7
    now[0] += BEAT_SECONDS
    report.beat()
    assert status(job).frames == 9


def test_a_status_that_could_not_be_written_is_said_once_and_tried_again(job, caplog, monkeypatch):
    report = StatusReport(job.store, "edge-1", lambda: 0)

    def broken(*_, **__):
        raise InputError("the store is out of reach")

    with monkeypatch.context() as patched:
        patched.setattr(type(job.store), "write", broken)
        report.say("v1", "failed", "because")
        report.beat()
    assert caplog.text.count("out of reach") == 1
    report.beat()
    assert status(job).error == "because"


def release(job, folder, version, **members):
    """Release bundles by their roles, each a different model by its text, and point the workers at it."""
    described = {}
    for role, text in members.items():
        bundle = folder / text
        if not bundle.exists():
            graph = colour_model()
            graph.doc_string = text
            write_bundle(bundle, graph)
            job.registry.publish(bundle, text)
        described[role] = Member(version=text, sha256=sha256_of(bundle / "model.json"))
    made = Release(members=described, routing={"confidence": 0.5})
    job.registry.publish_release(made, version)
    state, etag = job.read()
    state = state.model_copy(update={"vouched": {**state.vouched, version: made.sha256}})
    job.commit(state.pointing_at(version, "a test"), etag)
    publish_pointer(job)


def test_a_worker_runs_its_member_of_a_release_and_acknowledges_the_release(job, tmp_path, monkeypatch):
    site = Site(job, tmp_path, pointer=JobPointer(job.store, "edge-1", "little"))
    release(job, tmp_path, "first", little="l1", big="b1")
    assert site.turn().version == "l1"
    assert (status(job).version, status(job).state) == ("first", "loaded")
    site.use()
    asked = count_requests(monkeypatch)
    release(job, tmp_path, "second", little="l1", big="b2")
    detector = site.slot.current.detector
    assert site.turn().detector is detector, "what it runs has not changed"
    assert (status(job).version, status(job).state) == ("second", "loaded")
    assert not any(request.startswith("download") for request in asked)
    release(job, tmp_path, "third", little="l3", big="b2")
    assert site.turn().version == "l3"
    assert site.slot.current.desired.routing == {"confidence": 0.5}
    job.roll_back()
    publish_pointer(job)
    assert site.turn().version == "l1"
    assert (status(job).version, status(job).state) == ("second", "loaded")
