"""What holds in every image, whoever runs it; and the edge worker in its own."""

import atexit
import functools
import json
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from components import images
from components.core.bundle import Bundle
from components.core.job.hard_examples import read_sidecars
from components.core.job.job import Job
from tests.edge import deploy, folder_of_images
from tests.images import job_with_images
from tests.models import BUNDLE, colour_model
from tests.models import write_bundle as write_split_bundle
from tests.tiny_detector import train_network, write_bundle

ON_ARM64 = pytest.mark.skipif(
    not os.environ.get("EDGE_TEST_ARM64"),
    reason="no edge image was built for arm64: EDGE_TEST_ARM64=1 make test-docker, where qemu is registered",
)
EDGE = ("edge", pytest.param("edge-arm64", marks=ON_ARM64))
IMAGES = ("trigger", "train", "convert", "cloud", *EDGE)
MOST_MB = {"trigger": 560, "train": 5_700, "convert": 5_900, "edge": 580, "cloud": 580, "edge-arm64": 530}
PROGRAMS = {"edge": "components.serving.worker", "cloud": "components.serving.cloud_server"}  # which have no polars
SOMEBODY = "4711:4711"
CORTEX_A76 = """processor\t: {number}
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 0

"""


def image_of(name: str) -> str:
    """An image as it is called; ``edge-arm64`` is another build of ``edge``."""
    image, _, machine = name.partition("-")
    return images.TRIGGER.replace("/trigger:", f"/{image}:") + (f"-{machine}" if machine else "")


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(name: str, *command: str, options: tuple[str, ...] = ("--user", SOMEBODY)) -> str:
    """Run a command in an image and give what it prints; no command is the image's own."""
    machine = on_arm64() if name == "edge-arm64" else ()
    return docker("run", "--rm", *machine, *options, image_of(name), *command)


@functools.cache
def on_arm64() -> tuple[str, ...]:
    """What `docker run` has to be told for another machine, which is emulated unless this one is of its kind.

    Qemu (7.2) lets programs see this machine's ``/proc/cpuinfo``, and ONNX Runtime, which looks there for the parts of
    an arm64 processor, crashes when it is imported. So it gets to see a board's.
    """
    chosen = ("--platform", "linux/arm64")
    if platform.machine() == "aarch64":
        return chosen
    file = Path(tempfile.mkdtemp()) / "cpuinfo"
    atexit.register(shutil.rmtree, file.parent)
    file.write_text("".join(CORTEX_A76.format(number=number) for number in range(os.cpu_count() or 1)))
    # Where qemu is a container's first process, what it emulates cannot kill itself, and a crash would not end.
    return (*chosen, "--init", "--volume", f"{file}:/proc/cpuinfo:ro")


@pytest.mark.parametrize("name", IMAGES)
def test_any_user_can_import_the_code_and_write_where_it_has_to(name):
    used = PROGRAMS.get(name.partition("-")[0], "components.core.job.job")
    code = (
        f"import os, pathlib, sys, tempfile, zoneinfo, {used};"
        "zoneinfo.ZoneInfo('Europe/Berlin');"
        "(pathlib.Path(os.environ['EDGE_CACHE_DIR']) / 'x').write_text('');"
        "(pathlib.Path.home() / 'x').write_text('');"
        "tempfile.mkstemp();"
        "print(sys.version_info[:2], os.getuid())"
    )
    told = run(name, "python3", "-c", code, options=("--user", SOMEBODY, "--workdir", "/"))
    assert told == "(3, 11) 4711\n"


@pytest.mark.parametrize("name", ["trigger", "train", "convert"])
def test_kfp_can_be_imported_where_steps_run(name):
    """The images have KFP without what compiling needs."""
    assert run(name, "python3", "-c", "from kfp import dsl; print(dsl.Model.__name__)") == "Model\n"


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_nobody_in_particular_and_keeps_no_secret_of_its_building(name):
    (described,) = json.loads(docker("image", "inspect", image_of(name)))
    assert described["Config"]["User"] == "1000:0"
    assert not described["Config"]["Entrypoint"]
    assert described["Config"]["Labels"]["org.opencontainers.image.version"] == images.VERSION
    certificates = "find / -xdev -path '/run/secrets*' 2>/dev/null; true"
    assert run(name, "sh", "-c", certificates, options=()) == ""


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_no_larger_than_is_said(name):
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image_of(name)))
    assert size < MOST_MB[name] * 1_000_000


def test_torch_works_for_any_user():
    code = "import torch, torchvision; print(torchvision.ops.nms(torch.eye(4), torch.ones(4), 0.5).shape)"
    assert "Size" in run("train", "python3", "-c", code)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="rknn-toolkit2 is for x86-64 alone")
def test_the_step_that_rolls_out_has_the_manifests_that_it_applies():
    code = (
        "from components.core.parameters import ServingSettings; from components.rollout.manifests import *; "
        "made = render('s3://jobs/pair', ServingSettings(serving='kserve'), Images('a', 'b'), 'store', 'vision'); "
        "print(*(one['kind'] for one in made))"
    )
    assert run("train", "python3", "-c", code).split() == ["Service", "InferenceService", "DaemonSet"]


def test_the_toolkit_converts_a_model_and_measures_it(tmp_path):
    write_bundle(tmp_path / "model", train_network())
    job_with_images(tmp_path / "job", {"train": 25, "test": 60}).write(tmp_path / "manifest.parquet")
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
    me = f"{os.getuid()}:{os.getgid()}"
    told = run("convert", "python3", "-c", code, options=("--user", me, "--volume", f"{tmp_path}:{tmp_path}"))
    assert told.endswith("converted\n")
    assert "model.rk3588.rknn" in Bundle.read(tmp_path / "out").files


@pytest.mark.parametrize("name", EDGE)
def test_the_edge_worker_looks_at_images_and_sends_home_the_hard_ones(s3, tmp_path, name):
    job = Job.open(s3)
    deploy(job, "v1", tmp_path / "bundle")
    folder = folder_of_images(tmp_path / "images", 5)
    given = [word for name in sorted(os.environ) if name.startswith("AWS_") for word in ("--env", name)]
    options = (
        "--user", SOMEBODY, "--network", "host", *given, "--env", f"EDGE_JOB_ROOT={s3}",
        "--env", "EDGE_SOURCE=/images", "--env", "EDGE_MINER=CloudOnly", "--env", "EDGE_DUPLICATE_BITS=-1",
        "--volume", f"{folder}:/images:ro",
    )  # fmt: skip
    run(name, options=options)
    assert sorted(sidecar.frame for sidecar in read_sidecars(job.store)) == list(range(5))


@ON_ARM64
def test_what_a_board_lacks_is_told_by_rockchips_own_library_in_one_line(tmp_path):
    folder = write_split_bundle(tmp_path / "bundle", colour_model())
    (folder / "model.rk3588.rknn").write_bytes(b"no model, which nobody gets to see")
    BUNDLE.write(folder)
    code = """
import pathlib, rknnlite.api
from components.core.errors import InputError
from components.core.runtimes import rknn
rknn.COMPATIBLE = pathlib.Path("/tmp/compatible")
rknn.COMPATIBLE.write_text("rockchip,rk3588")
try:
    rknn.open_on_board(pathlib.Path("/bundle"))
except InputError as error:
    print(error)
"""
    told = run("edge-arm64", "python3", "-c", code, options=("--volume", f"{folder}:/bundle:ro"))
    assert "/usr/lib/librknnrt.so and /dev/dri/renderD129 not found" in told.splitlines()[-1]
