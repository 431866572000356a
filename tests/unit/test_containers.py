"""What containers get to see of the machine they run on."""

import os
from pathlib import Path

import pytest
from docker.errors import NotFound
from docker.types import Mount

from components.core.errors import InputError
from pipelines import __main__ as command_line
from pipelines import containers
from pipelines.cluster import CREDENTIALS
from pipelines.registry import PIPELINES


@pytest.fixture
def runner_for(tmp_path, monkeypatch):
    """Makes a runner without an engine, and tells what it hands to each container."""
    monkeypatch.setattr(containers, "_bring_images", lambda pipeline: None)
    for name in [name for name in os.environ if name == "EDGE_CACHE_DIR" or name.upper() in CREDENTIALS]:
        if not name.startswith("AWS_") or name == "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def made(**arguments: object) -> dict:
        return containers.docker_runner(PIPELINES["helmet-detection"], arguments, tmp_path / "runs").container_run_args

    return made


def seen(mounts: list[Mount]) -> dict[str, bool]:
    """Mounted paths, the same inside and outside, and whether they can be written."""
    assert all(mount["Source"] == mount["Target"] for mount in mounts)
    return {mount["Target"]: not mount["ReadOnly"] for mount in mounts}


def test_the_job_can_be_written_and_the_data_only_read(runner_for, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base.pt").write_bytes(b"")
    given = runner_for(
        job_root=str(tmp_path / "job"), data_url=(tmp_path / "data").as_uri(), base_model=f"{tmp_path}/models/base.pt"
    )
    assert seen(given["mounts"]) == {
        f"{tmp_path}/data": False,
        f"{tmp_path}/job": True,  # its cache is in it: between two mounts nothing could be linked
        f"{tmp_path}/models": False,
    }
    assert given["environment"]["EDGE_CACHE_DIR"] == f"{tmp_path}/job/cache"


def test_every_model_to_train_on_is_found_from_its_place_and_can_be_read(runner_for, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("base_model", "initial_model", "big_model")
    for name in names:
        (tmp_path / "home" / name).mkdir(parents=True)
        (tmp_path / "home" / name / "best.pt").write_bytes(b"")
    beside = {name: f"home/{name}/best.pt" for name in names}
    at_home = {name: f"~/{name}/best.pt" for name in names}
    given = command_line._absolute({"job_root": "job", **beside})
    assert given == command_line._absolute({"job_root": "job", **at_home})
    mounts = seen(runner_for(**given)["mounts"])
    assert mounts == {f"{tmp_path}/job": True, **{f"{tmp_path}/home/{name}": False for name in names}}
    assert command_line._absolute(dict.fromkeys(names, "yolo11n.yaml")) == dict.fromkeys(names, "yolo11n.yaml")


def test_the_base_models_of_a_benchmark_can_be_read(runner_for, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "base.pt").write_bytes(b"")
    algorithms = [
        {"base_model": f"{tmp_path}/a/base.pt"},
        {"base_model": [f"{tmp_path}/b/base.pt", f"{tmp_path}/c/base.pt", "yolo11n.yaml"]},
        {"estimator": "fpn"},
    ]
    given = runner_for(job_root=str(tmp_path / "job"), algorithms=algorithms)
    assert seen(given["mounts"]) == {
        f"{tmp_path}/job": True, f"{tmp_path}/a": False, f"{tmp_path}/b": False, f"{tmp_path}/c": False,
    }  # fmt: skip


def test_a_job_elsewhere_has_its_cache_here(runner_for, tmp_path, s3):
    given = runner_for(job_root=f"{s3}/job", data_url=f"{s3}/data.zip", base_model="yolo11n.yaml")
    cache = f"{tmp_path}/home/.cache/edge-learning"
    assert seen(given["mounts"]) == {cache: True}
    assert Path(cache).is_dir()


def test_containers_run_as_who_started_them_and_get_what_stores_need_alone(runner_for, tmp_path, s3, monkeypatch):
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "3")
    monkeypatch.setenv("SOMETHING_ELSE", "x")
    given = runner_for(job_root=str(tmp_path / "job"), data_url=f"{s3}/data.zip")
    assert given["user"] == f"{os.getuid()}:{os.getgid()}"
    assert given["environment"]["AWS_ENDPOINT_URL"] == os.environ["AWS_ENDPOINT_URL"]
    assert given["environment"]["EDGE_STORE_PATIENCE"] == "3"
    assert all(name.startswith(("AWS_", "EDGE_")) or name == "NO_PROXY" for name in given["environment"])


def test_containers_use_the_proxy_and_see_the_certificates_that_the_environment_names(
    runner_for, tmp_path, monkeypatch
):
    (tmp_path / "company.pem").write_text("")
    monkeypatch.setenv("AWS_CA_BUNDLE", f"{tmp_path}/company.pem")
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/gone.pem")
    for name in ("HTTPS_PROXY", "http_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    given = runner_for(job_root=str(tmp_path / "job"))
    assert {"HTTPS_PROXY", "http_proxy", "NO_PROXY", "AWS_CA_BUNDLE", "SSL_CERT_FILE"} <= given["environment"].keys()
    assert seen(given["mounts"]) == {f"{tmp_path}/company.pem": False, f"{tmp_path}/job": True}


def test_the_containers_of_a_run_that_ends_early_end_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "_bring_images", lambda pipeline: None)
    pipeline = PIPELINES["helmet-detection"]
    ours, other = (
        containers.docker_runner(pipeline, {"job_root": str(tmp_path / name)}, tmp_path / "runs") for name in "ab"
    )
    killed = []

    class Engine:
        """Has one container of each run, and one that has ended when it is asked to."""

        containers = property(lambda self: self)

        def list(self, filters):
            labels = [
                f"{name}={value}" for run in (ours, other) for name, value in run.container_run_args["labels"].items()
            ]
            return [Container(label, gone) for label in labels for gone in (True, False) if label == filters["label"]]

    class Container:
        def __init__(self, label, gone):
            self._label, self._gone = label, gone

        def kill(self):
            if self._gone:
                raise NotFound("no such container")
            killed.append(self._label)

    monkeypatch.setattr("docker.from_env", Engine)
    containers.end_containers(ours)
    assert killed == [f"edge-learning-run={ours.container_run_args['labels']['edge-learning-run']}"]


def test_without_an_engine_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(InputError, match="no Docker engine is running: start one"):
        containers.docker_runner(PIPELINES["helmet-detection"], {"job_root": str(tmp_path)}, tmp_path)


def test_programs_that_have_to_outlive_their_step_are_not_started_in_its_container(runner_for, tmp_path):
    runner_for(job_root=str(tmp_path / "job"), serving="none")
    with pytest.raises(InputError, match="serving=kserve starts programs that would end with the container"):
        runner_for(job_root=str(tmp_path / "job"), serving="kserve")
