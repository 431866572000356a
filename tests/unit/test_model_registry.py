"""Champions in a model registry, which never decides how a round ends."""

import socket
from pathlib import Path

import pytest

from components.core.bundle import Bundle
from components.core.heads import SplitHead
from components.core.job.job import Job
from components.core.manifest import Manifest
from components.core.parameters import DeploySettings, read
from components.deploy.candidate import Candidate
from components.deploy.deploy import deploy
from components.deploy.model_registry import TOKEN_VARIABLE, register_champion
from tests.model_registry import FakeRegistry, serving

ROW = {
    "id": "ab" * 32, "uri": "file:///a.jpg", "width": 1, "height": 1, "split": "test", "group": "a", "source": "a.jpg",
    "round": 1, "annotations": [],
}  # fmt: skip


def bundle(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_text(folder.name)
    (folder / "model.pt").write_text(f"weights of {folder.name}")
    Bundle(
        classes=("helmet",), image_size=(64, 64), estimator="yolo", head=SplitHead((8,), 1, False),
        outputs=("box0", "cls0"), confidence_threshold=0.25, nms_threshold=0.7,
    ).write(folder)  # fmt: skip
    return folder


def end_round(folder: Path, number: int, candidate: Candidate, outcome="promoted") -> tuple[Job, str]:
    root = str(folder / "helmets")
    samples = folder / "samples.parquet"
    Manifest.of([ROW], ["helmet"]).write(samples)
    deployed = deploy(
        root, candidate, samples, outcome=outcome, why="better by 0.1", round_number=number, run_id=f"run-{number}",
        cursor="c", champion=Job.open(root).read()[0].champion,
    )  # fmt: skip
    return Job.open(root), deployed.version


@pytest.fixture
def job(tmp_path):
    return end_round(tmp_path, 1, Candidate.of_one(bundle(tmp_path / "first")))


@pytest.fixture
def registry():
    return FakeRegistry()


@pytest.fixture
def chosen(registry):
    with serving(registry) as address:
        yield read(DeploySettings, {"model_registry": address})


def register(job, chosen, candidate="", figures=None, run_id=""):
    (section,) = register_champion(job, job.read()[0], chosen, candidate, figures, run_id)
    return str(section.body)


def test_a_champion_becomes_a_version_with_its_figures_its_reason_and_its_bundle(job, registry, chosen):
    job, version = job
    told = register(job, chosen, version, {"map50": 0.5, "images": 20, "why": "no number"}, "run-1")
    assert "helmets" in told and version in told
    (model,), (made,), (artifact,) = registry.kept.values()
    assert model["name"] == "helmets"
    assert (made["name"], made["registeredModelId"]) == (version, model["id"])
    assert made["description"] == "promoted: better by 0.1"
    values = {name: list(value.values()) for name, value in made["customProperties"].items()}
    assert values == {
        "map50": ["MetadataDoubleValue", 0.5],
        "images": ["MetadataDoubleValue", 20.0],
        "job": ["MetadataStringValue", job.store.uri],
        "run": ["MetadataStringValue", "run-1"],
    }
    assert artifact["uri"] == job.store.uri_of(f"bundles/{version}")
    assert (artifact["name"], artifact["modelFormatName"], artifact["modelSourceId"]) == ("model", "onnx", "run-1")
    assert artifact["customProperties"]["sha256"]["string_value"] == job.read()[0].vouched[version]


def test_registering_again_changes_nothing(job, registry, chosen):
    job, version = job
    register(job, chosen, version, {"map50": 0.5})
    before = [list(kept) for kept in registry.kept.values()]
    registry.requests.clear()
    register(job, chosen, version, {"map50": 0.7})
    assert [list(kept) for kept in registry.kept.values()] == before
    assert {request.split()[0] for request in registry.requests} == {"GET"}


def test_what_a_run_that_was_killed_left_out_is_added(job, registry, chosen):
    job, version = job
    register(job, chosen, version)
    registry.kept["artifacts"].clear()
    register(job, chosen, version)
    assert [one["name"] for one in registry.kept["artifacts"]] == ["model"]


def test_two_runs_at_once_register_it_once(job, registry, chosen):
    job, version = job
    registry.meanwhile = lambda: registry.kept["registered_models"].append({"id": "7", "name": "helmets", "parent": ""})
    register(job, chosen, version)
    assert [one["id"] for one in registry.kept["registered_models"]] == ["7"]
    assert registry.kept["model_versions"][0]["registeredModelId"] == "7"


def test_a_rejected_candidate_is_not_registered_and_its_figures_are_not_the_champions(job, registry, chosen, tmp_path):
    _, champion = job
    job, rejected = end_round(tmp_path, 2, Candidate.of_one(bundle(tmp_path / "second")), outcome="rejected")
    register(job, chosen, rejected, {"map50": 0.1}, "run-2")
    (made,) = registry.kept["model_versions"]
    assert made["name"] == champion
    assert set(made["customProperties"]) == {"job"}


def test_each_model_of_a_release_is_an_artifact(tmp_path, registry, chosen):
    members = {role: bundle(tmp_path / role) for role in ("little", "big")}
    job, version = end_round(tmp_path, 1, Candidate(members, {"threshold": 0.4}))
    register(job, chosen, version)
    release = job.registry.release(version, job.read()[0].vouched[version])
    assert {one["name"]: one["uri"] for one in registry.kept["artifacts"]} == {
        role: job.store.uri_of(f"bundles/{member.version}") for role, member in release.members.items()
    }


def test_the_model_may_have_a_name_of_its_own(job, registry, chosen):
    register(job[0], chosen.model_copy(update={"registered_model": "site north / helmets"}))
    assert registry.kept["registered_models"][0]["name"] == "site north / helmets"


def test_the_token_comes_from_the_environment_and_is_never_said(job, registry, chosen, monkeypatch, caplog):
    registry.token = "a-token-that-no-message-may-show"
    told = register(job[0], chosen)
    assert "not registered, HTTP 401 Unauthorized: put MODEL_REGISTRY_TOKEN into the secret of the store" in told
    monkeypatch.setenv(TOKEN_VARIABLE, registry.token)
    told += register(job[0], chosen)
    assert len(registry.kept["model_versions"]) == 1
    assert registry.token not in told + caplog.text


@pytest.mark.parametrize("status", [400, 422, 500, 503, 302])
def test_a_registry_that_refuses_is_a_warning(job, registry, chosen, status, caplog):
    registry.status = status
    assert f"not registered, HTTP {status}" in register(job[0], chosen)
    assert f"not registered, HTTP {status}" in caplog.text


def test_a_registry_that_is_gone_or_none_is_a_warning(job, registry, chosen):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        gone = chosen.model_copy(update={"model_registry": f"http://127.0.0.1:{taken.getsockname()[1]}"})
        assert "Connection refused" in register(job[0], gone)
    registry.status = 200
    assert "this is no model registry" in register(job[0], chosen)


def test_without_a_registry_or_a_champion_nothing_is_asked(job, registry, chosen, tmp_path):
    assert register_champion(job[0], job[0].read()[0], read(DeploySettings, {})) == []
    new = Job.open(str(tmp_path / "new"))
    assert register_champion(new, new.read()[0], chosen) == []
    assert registry.requests == []
