"""Python with the packages of the small image alone, and a step as its pod runs it there."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

from pipelines.client import COMPILED

REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = REPOSITORY / "images" / "trigger" / "requirements.txt"


class Said(NamedTuple):
    """What a step printed, and what it returned."""

    log: str
    output: str


def packages(folder: Path) -> Path:
    """A folder of links to the packages that the image has, for `PYTHONPATH` with `python -S`."""
    folder.mkdir(parents=True)
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        name = re.split("[=; ]", line)[0]
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another version of Python
        for top in {file.parts[0] for file in found.files or () if not file.parts[0].startswith("..")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))))
    return folder


def run_step(name: str, folder: Path, links: Path, given: dict[str, object], **environment: str) -> Said:
    """Run a compiled component as its pod does, by KFP's executor.

    Args:
        name: of a component that returns text and writes a page.
        folder: for its outputs.
        links: from `packages`.
        given: parameters by name.
        environment: further variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = next(yaml.safe_load_all((COMPILED / "components" / f"{name}.yaml").read_text(encoding="utf-8")))
    (executor,) = spec["deploymentSpec"]["executors"].values()
    source = folder / "ephemeral_component.py"
    source.write_text(executor["container"]["command"][3], encoding="utf-8")
    page = {"name": "report", "type": {"schemaTitle": "system.HTML"}, "uri": str(folder / "report"), "metadata": {}}
    outputs = {
        "artifacts": {"report": {"artifacts": [page]}},
        "parameters": {"Output": {"outputFile": str(folder / "output")}},
        "outputFile": str(folder / "outputs.json"),
    }
    words = [
        "-m", "kfp.dsl.executor_main", "--component_module_path", str(source), "--function_to_execute", name,
        "--executor_input", json.dumps({"inputs": {"parameterValues": given}, "outputs": outputs}),
    ]  # fmt: skip
    here = {"_KFP_RUNTIME": "true", "PYTHONPATH": f"{links}:{REPOSITORY}", "EDGE_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-S", *words], env=os.environ | here | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    values = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))["parameterValues"]
    return Said(done.stdout, values["Output"])
