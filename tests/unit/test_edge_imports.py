"""What the edge worker loads on a device: nothing that reads tables, trains or draws."""

import subprocess
import sys
import textwrap

import pytest

from components.core.job.job import Job
from components.core.lifelong.knowledge_base import Chosen
from components.core.lifelong.plug_points import make, task_allocations
from components.core.lifelong.samples import Samples
from tests.edge import deploy, folder_of_images, images, uploaded
from tests.knowledge_base import release, routing

TOO_LARGE = ("polars", "torch", "torchvision", "ultralytics", "matplotlib", "scipy", "kfp", "kubernetes", "onnx", "PIL")


def loaded_by(code: str) -> str:
    """Run code in a fresh interpreter; those of the large packages that it then has, in one line."""
    told = f"import sys; print('loaded:', *(name for name in {TOO_LARGE!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{textwrap.dedent(code)}\n{told}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("loaded:").strip()


def test_no_module_of_the_worker_and_no_plugin_that_it_can_be_told_to_use_loads_a_large_package():
    assert not loaded_by("""
        import importlib, pkgutil
        import components.serving
        for module in pkgutil.walk_packages(components.serving.__path__, "components.serving."):
            importlib.import_module(module.name)
        import components.core.stores.s3
        from components.core.miners.base import miners
        from components.core.runtimes.base import runtimes
        from components.serving.sinks.base import sinks
        from components.core.lifelong.plug_points import task_allocations, task_definitions, unseen_detections
        registries = (miners, runtimes, sinks, task_allocations, task_definitions, unseen_detections)
        assert [registry.get(name) for registry in registries for name in registry.names()]
    """)


def one_model(job, folder):
    deploy(job, "v1", folder / "bundle")


def knowledge_base(job, folder):
    router = make(task_allocations, "router", {}).fit(Samples.of(images(4)), ["a", "a", "b", "b"])
    chosen = Chosen(name="router", state=router)
    base = routing({"a": "a", "b": "shared"}, unseen="knn", threshold=100, allocation=chosen)
    release(job, folder, "v1", {"shared": "s1", "a": "a1"}, base)


@pytest.mark.parametrize("publish", [one_model, knowledge_base])
def test_a_life_of_a_worker_loads_no_large_package(s3, tmp_path, publish):
    job = Job.open(s3)
    publish(job, tmp_path)
    folder = folder_of_images(tmp_path / "images", 3)
    assert not loaded_by(f"""
        from pathlib import Path
        from components.serving.edge_worker import run
        from components.serving.worker import Options
        run(Options(job_root={s3!r}, source={str(folder)!r}, node="edge-1", folder=Path({str(tmp_path / "worker")!r}),
                    miner="CloudOnly", duplicate_bits=-1, poll_s=0.1, threads=1))
    """)
    assert len(uploaded(job)) == 3


def test_a_large_package_is_noticed():
    assert loaded_by("import components.core.manifest") == "polars"
