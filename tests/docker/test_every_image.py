"""What holds in every image, whoever runs it; and the edge worker in its own."""

import json
import os
import platform
import subprocess

import pytest

from components import images
from components.core.bundle import Bundle
from components.core.hard_examples import read_sidecars
from components.core.job import Job
from tests.edge import deploy, folder_of_pictures
from tests.pictures import job_with_pictures
from tests.tiny_detector import train_network, write_bundle

IMAGES = ("trigger", "train", "convert", "edge")
MOST_MB = {"trigger": 560, "train": 5_700, "convert": 5_900, "edge": 780}
SOMEBODY = "4711:4711"


def image_of(name: str) -> str:
    return images.TRIGGER.replace("/trigger:", f"/{name}:")


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", IMAGES)
def test_any_user_can_import_the_code_and_write_where_it_has_to(name):
    code = (
        "import os, pathlib, sys, tempfile, zoneinfo, components.core.job;"
        "zoneinfo.ZoneInfo('Europe/Berlin');"
        "(pathlib.Path(os.environ['EDGE_CACHE_DIR']) / 'x').write_text('');"
        "(pathlib.Path.home() / 'x').write_text('');"
        "tempfile.mkstemp();"
        "print(sys.version_info[:2], os.getuid())"
    )
    told = docker("run", "--rm", "--user", SOMEBODY, "--workdir", "/", image_of(name), "python3", "-c", code)
    assert told == "(3, 11) 4711\n"


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_nobody_in_particular_and_keeps_no_secret_of_its_building(name):
    (described,) = json.loads(docker("image", "inspect", image_of(name)))
    assert described["Config"]["User"] == "1000:0"
    assert not described["Config"]["Entrypoint"]
    assert described["Config"]["Labels"]["org.opencontainers.image.version"] == images.VERSION
    certificates = "find / -xdev -path '/run/secrets*' 2>/dev/null; true"
    assert docker("run", "--rm", image_of(name), "sh", "-c", certificates) == ""


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_no_larger_than_is_said(name):
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image_of(name)))
    assert size < MOST_MB[name] * 1_000_000


def test_torch_works_for_any_user():
    code = "import torch, torchvision; print(torchvision.ops.nms(torch.eye(4), torch.ones(4), 0.5).shape)"
    assert "Size" in docker("run", "--rm", "--user", SOMEBODY, image_of("train"), "python3", "-c", code)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="rknn-toolkit2 is for x86-64 alone")
def test_the_toolkit_converts_a_model_and_measures_it(tmp_path):
    write_bundle(tmp_path / "model", train_network())
    job_with_pictures(tmp_path / "job", {"train": 25, "test": 60}).write(tmp_path / "manifest.parquet")
    code = f"""
from pathlib import Path
from components.convert.convert import convert
from components.convert.gate import Limits
from components.core.manifest import Manifest
here = Path({str(tmp_path)!r})
done = convert(Manifest.read(here / "manifest.parquet"), here / "model", here / "out", job_root=str(here / "job"),
               targets="rk3588", quantization_retries="", limits=Limits())
print(done.outcome)
"""
    told = docker(
        "run", "--rm", "--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{tmp_path}:{tmp_path}",
        image_of("convert"), "python3", "-c", code,
    )  # fmt: skip
    assert told.endswith("converted\n")
    assert "model.rk3588.rknn" in Bundle.read(tmp_path / "out").files


def test_the_edge_worker_looks_at_pictures_and_sends_home_the_hard_ones(s3, tmp_path):
    job = Job.open(s3)
    deploy(job, "v1", tmp_path / "bundle")
    folder = folder_of_pictures(tmp_path / "pictures", 5)
    given = [word for name in sorted(os.environ) if name.startswith("AWS_") for word in ("--env", name)]
    docker(
        "run", "--rm", "--user", SOMEBODY, "--network", "host", *given, "--env", f"EDGE_JOB_ROOT={s3}",
        "--env", "EDGE_SOURCE=/pictures", "--env", "EDGE_MINER=CloudOnly", "--env", "EDGE_DUPLICATE_BITS=-1",
        "--volume", f"{folder}:/pictures:ro", image_of("edge"),
    )  # fmt: skip
    assert sorted(sidecar.frame for sidecar in read_sidecars(job.store)) == list(range(5))
