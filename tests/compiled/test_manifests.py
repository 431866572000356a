"""Pipelines as Kubernetes objects, for Argo CD."""

import jsonschema
import pytest
import yaml

from pipelines.client import COMPILED, read_package
from pipelines.manifests import write_manifests
from pipelines.registry import PIPELINES

# The fields of the two kinds in version v2beta1, as Kubeflow Pipelines 2.16 and newer define them.
TEXT, TAGS = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}
FIELDS = {
    "Pipeline": {"description": TEXT, "displayName": TEXT, "tags": TAGS},
    "PipelineVersion": {
        "codeSourceURL": TEXT, "description": TEXT, "displayName": TEXT, "pipelineName": TEXT, "pipelineSpecURI": TEXT,
        "tags": TAGS, "pipelineSpec": {"type": "object"}, "platformSpec": {"type": "object"},
    },
}  # fmt: skip
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}


def check(document):
    jsonschema.validate(
        document,
        {
            "required": ["apiVersion", "kind", "metadata", "spec"],
            "additionalProperties": False,
            "properties": {
                "apiVersion": {"const": "pipelines.kubeflow.org/v2beta1"},
                "kind": {"enum": list(FIELDS)},
                "metadata": {"required": ["name"], "properties": {"name": NAME, "annotations": TAGS}},
                "spec": {"additionalProperties": False, "properties": FIELDS[document["kind"]]},
            },
        },
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifests") / "new"
    return write_manifests([read_package(name) for name in PIPELINES], folder)


def test_every_pipeline_has_a_file(written):
    assert sorted(path.stem for path in written) == sorted(PIPELINES)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_and_its_version_are_what_the_server_takes(written, name):
    (path,) = (path for path in written if path.stem == name)
    pipeline, version = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    check(pipeline)
    check(version)
    assert pipeline["metadata"]["name"] == version["spec"]["pipelineName"] == name
    assert version["metadata"]["name"] == f"{name}-{read_package(name).version}"
    assert len(path.read_bytes()) < 1_000_000  # etcd takes no object larger than 1.5 MB
    compiled = list(yaml.safe_load_all((COMPILED / "pipelines" / path.name).read_text(encoding="utf-8")))
    assert [version["spec"]["pipelineSpec"], version["spec"]["platformSpec"]] == compiled
    assert pipeline["spec"]["description"] == compiled[0]["pipelineInfo"]["description"]


def test_the_version_follows_its_pipeline_and_outlives_its_file(written):
    _, version = yaml.safe_load_all(written[0].read_text(encoding="utf-8"))
    assert version["metadata"]["annotations"] == {
        "argocd.argoproj.io/sync-wave": "1",
        "argocd.argoproj.io/sync-options": "Prune=false",
    }
