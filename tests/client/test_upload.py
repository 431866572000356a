import json
from types import SimpleNamespace

import pytest

from components.core.errors import InputError
from pipelines.client import COMPILED, Cluster, read_package
from pipelines.schedule import warnings_of_others
from pipelines.upload import upload


class Pipelines:
    """The part of kfp's client that keeps pipelines and their versions."""

    def __init__(self):
        self.kept, self.versions = {}, {}
        self.pipelines = SimpleNamespace(
            pipeline_service_list_pipelines=self.list_pipelines,
            pipeline_service_create_pipeline=self.create_pipeline,
            pipeline_service_list_pipeline_versions=self.list_versions,
        )

    def list_pipelines(self, filter, namespace, **_):
        assert namespace == "team"
        name = json.loads(filter)["predicates"][0]["stringValue"]
        found = [SimpleNamespace(pipeline_id=name)] if name in self.kept else []
        return SimpleNamespace(pipelines=found, next_page_token="")

    def create_pipeline(self, wanted, **_):
        self.kept[wanted.display_name] = wanted
        return SimpleNamespace(pipeline_id=wanted.display_name)

    def upload_pipeline_version(self, path, name, pipeline_id, description):
        self.versions.setdefault(pipeline_id, []).append(name)

    def list_versions(self, pipeline_id, **_):
        listed = [SimpleNamespace(display_name=name) for name in self.versions.get(pipeline_id, [])]
        return SimpleNamespace(pipeline_versions=listed, next_page_token="")


def test_every_pipeline_is_uploaded_once_with_its_description_and_version():
    client = Pipelines()
    cluster = Cluster(client, "http://host", "team", "http://ui")
    names = sorted(path.stem for path in (COMPILED / "pipelines").glob("*.yaml"))
    said = list(upload(cluster, []))
    assert sorted(client.kept) == names
    assert client.kept["helmet-detection"].description.startswith("Bring images in, train a detector")
    version = f"0.1.0-{read_package('helmet-detection').digest[:8]}"
    assert client.versions["helmet-detection"] == [version]
    assert said[0].endswith(" is uploaded: http://ui/#/pipelines")
    assert list(upload(cluster, ["helmet-detection"])) == [
        f"helmet-detection {version} was there already: http://ui/#/pipelines"
    ]
    assert client.versions["helmet-detection"] == [version]


def test_an_unknown_pipeline_is_not_uploaded():
    with pytest.raises(InputError, match="unknown pipeline 'helmets'"):
        list(upload(Cluster(Pipelines(), "http://host", None, "http://ui"), ["helmets"]))


def test_a_schedule_made_in_the_form_is_warned_of():
    def made(name, **given):
        usual = {"description": "", "max_concurrency": "10", "no_catchup": False, "status": "ENABLED"}
        return SimpleNamespace(display_name=name, recurring_run_id=name, **{**usual, **given})

    found = [made("poll"), made("calm", max_concurrency="1", no_catchup=True), made("off", status="DISABLED")]
    listed = SimpleNamespace(recurring_runs=found, next_page_token="")
    runs = SimpleNamespace(recurring_run_service_list_recurring_runs=lambda **_: listed)
    lines = list(warnings_of_others(Cluster(SimpleNamespace(recurring_runs=runs), "http://host", None, "http://ui")))
    assert lines == [
        "warning: the recurring run 'poll' has up to 10 runs at once and catch-up of runs that were missed; set 1 run "
        "and no catch-up, or use `schedule`: http://ui/#/recurringrun/details/poll"
    ]
