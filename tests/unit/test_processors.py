import os
import subprocess
import sys

import pytest

from components.core import processors
from components.core.processors import processor_limit, share_processors
from pipelines import local
from pipelines.registry import PIPELINES


def quota_of_version_2(folder, text):
    (folder / "cpu.max").write_text(text)


def quota_of_version_1(folder, quota, period):
    (folder / "cpu").mkdir()
    (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("text", "limit"), [("200000 100000\n", 2), ("150000 100000\n", 2), ("10000 100000\n", 1), ("max 100000\n", 0)]
)
def test_the_limit_of_a_container(tmp_path, text, limit):
    quota_of_version_2(tmp_path, text)
    assert processor_limit(tmp_path) == limit


@pytest.mark.parametrize(("quota", "limit"), [(300_000, 3), (-1, 0)])
def test_the_limit_of_a_container_with_older_cgroups(tmp_path, quota, limit):
    quota_of_version_1(tmp_path, quota, 100_000)
    assert processor_limit(tmp_path) == limit


def test_a_limit_above_all_processors_is_none(tmp_path):
    quota_of_version_2(tmp_path, "3200000 100000\n")
    assert processor_limit(tmp_path) == 0


@pytest.mark.parametrize("text", ["", "unknown\n", "1 2 3\n", "100000 0\n"])
def test_what_cannot_be_read_is_no_limit(tmp_path, text):
    quota_of_version_2(tmp_path, text)
    assert processor_limit(tmp_path) == 0
    assert processor_limit(tmp_path / "none") == 0


def test_openmp_is_told_of_the_limit(tmp_path):
    quota_of_version_2(tmp_path, "200000 100000\n")
    environment = {}
    share_processors(environment, cgroups=tmp_path)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert int(environment["GOMP_SPINCOUNT"]) > 0


@pytest.mark.parametrize(("among", "threads"), [(1, "8"), (3, "2"), (9, "1")])
def test_without_a_limit_all_processors_are_shared(tmp_path, among, threads):
    environment = {}
    share_processors(environment, among=among, cgroups=tmp_path)
    assert environment["OMP_NUM_THREADS"] == threads


def test_what_the_user_has_set_stays(tmp_path):
    quota_of_version_2(tmp_path, "200000 100000\n")
    chosen = {"OMP_NUM_THREADS": "5", "GOMP_SPINCOUNT": "7"}
    share_processors(environment := dict(chosen), cgroups=tmp_path)
    assert environment == chosen
    share_processors(environment := {"OMP_WAIT_POLICY": "active"}, cgroups=tmp_path)
    assert "GOMP_SPINCOUNT" not in environment


@pytest.mark.parametrize("first", ["torch", "ultralytics"])
@pytest.mark.parametrize("limit", [1, 2])
def test_torch_takes_as_many_threads_in_a_step(tmp_path, first, limit):
    quota_of_version_2(tmp_path, f"{limit}00000 100000\n")
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from components.core import processors, steps\n"
        "processors.os.sched_getaffinity = lambda _: set(range(8))\n"
        f"steps.share_processors = lambda: processors.share_processors(cgroups=Path({str(tmp_path)!r}))\n"
        "with steps.step('train'):\n"
        f"    import {first}, torch\n"  # ultralytics would take one
        "    print(torch.get_num_threads())\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    clean["YOLO_CONFIG_DIR"] = str(tmp_path)  # not the user's home
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    threads = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    assert threads == [min(limit, os.cpu_count())]  # torch takes no more than there are


@pytest.mark.parametrize(("name", "threads"), [("helmet-detection", "8"), ("benchmark", "4")])
def test_cases_of_a_benchmark_share_the_processors_of_this_machine(monkeypatch, name, threads):
    monkeypatch.setattr(processors, "processor_limit", lambda _: 0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with local._environment(PIPELINES[name]):
        assert os.environ["OMP_NUM_THREADS"] == threads
    assert "OMP_NUM_THREADS" not in os.environ
