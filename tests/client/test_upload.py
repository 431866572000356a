import threading
from types import SimpleNamespace

import pytest

from components.core.errors import InputError
from components.core.version import VERSION
from pipelines.client import COMPILED, Cluster, Server, connect, read_package
from pipelines.schedule import warnings_of_others
from pipelines.upload import upload


def test_every_pipeline_is_uploaded_once_with_its_description_and_version(api, cluster):
    names = sorted(path.stem for path in (COMPILED / "pipelines").glob("*.yaml"))
    said = list(upload(cluster, []))
    made = {one["display_name"]: one for one in api.pipelines.values()}
    assert sorted(made) == names
    helmets = made["helmet-detection"]
    assert helmets["description"].startswith("Bring images in, train a detector")
    assert helmets["tags"] == {"edge-learning": VERSION}
    (version,) = [one for one in api.versions.values() if one["pipeline_id"] == helmets["pipeline_id"]]
    assert version["display_name"] == f"{VERSION}-{read_package('helmet-detection').digest[:8]}"
    assert version["description"] == helmets["description"]
    page = f"{api.url}/#/pipelines/details/{version['pipeline_id']}/version/{version['pipeline_version_id']}"
    assert f"helmet-detection {version['display_name']} is uploaded: {page}" in said
    again = list(upload(cluster, ["helmet-detection"]))
    assert again == [f"helmet-detection {version['display_name']} was there already: {page}"]
    assert len(api.versions) == len(names)


@pytest.mark.parametrize("folder", ["nothing", "pipelines"])
def test_a_folder_without_compiled_pipelines_is_told(api, cluster, tmp_path, folder):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "helmet-detection.yaml").touch()
    with pytest.raises(InputError, match="no compiled pipelines in it: give the folder that `compile --output` wrote"):
        list(upload(cluster, [], tmp_path / folder))
    with pytest.raises(InputError, match="no compiled pipelines in it: give the folder that `compile --output` wrote"):
        read_package("helmet-detection", tmp_path / folder)
    assert not api.pipelines


def test_other_container_images_make_another_version(api, cluster, tmp_path):
    compiled = (COMPILED / "pipelines" / "helmet-detection.yaml").read_text()
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(compiled.replace("edge-learning/train:", f"example.com/{name}:"))
        (line,) = upload(cluster, [str(tmp_path / f"{name}.yaml")])
        assert " is uploaded: " in line
    assert (len(api.pipelines), len(api.versions)) == (1, 2)


def test_an_old_version_is_found_behind_many_others(api, cluster, monkeypatch):
    monkeypatch.setattr("pipelines.client._PAGE", 2)
    list(upload(cluster, ["helmet-detection"]))
    (first,) = api.versions.values()
    api.versions = {f"v{number}": first | {"display_name": str(number)} for number in range(5)} | {"first": first}
    assert " was there already: " in next(upload(cluster, ["helmet-detection"]))


def test_two_uploads_at_the_same_time_make_one_version(api):
    def call():
        said.append(next(upload(connect(Server(api.url)), ["helmet-detection"])))

    said = []
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(said), len(api.pipelines), len(api.versions)) == (4, 1, 1)
    assert sum(" is uploaded: " in line for line in said) == 1


def test_an_unknown_pipeline_is_not_uploaded(api, cluster):
    with pytest.raises(InputError, match="unknown pipeline 'helmets'"):
        list(upload(cluster, ["helmets"]))
    assert not api.pipelines


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
