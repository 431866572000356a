"""Jobs of Sedna on a server."""

from pathlib import Path

from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.schedule import status

FILES = Path(__file__).resolve().parents[1] / "sedna"


def test_a_job_of_incremental_learning_is_a_schedule_of_its_name(api, cluster):
    words = ["-p", "feed_url=s3://feed/site", "-p", "job_root=s3://jobs/gate"]
    path = str(FILES / "helmet_incremental.yaml")
    done = CliRunner().invoke(app, ["sedna", path, "--schedule", "--host", api.url, *words])
    assert done.exit_code == 0, done.stderr
    (one,) = status(cluster)
    assert one.name == "helmets-at-the-gate"
    assert str(one.timing) == "every 1 minute"
    assert one.parameters["feed_url"] == "s3://feed/site"
    assert one.parameters["trigger_conditions"] == ["num_of_samples > 50"]


def test_a_service_of_joint_inference_is_one_run_of_its_name(api, cluster):
    words = ["-p", "data_url=s3://images/helmets.zip", "-p", "job_root=s3://jobs/two"]
    path = str(FILES / "helmet_joint.yaml")
    done = CliRunner().invoke(app, ["sedna", path, "--schedule", "--host", api.url, *words])
    assert done.exit_code == 0, done.stderr
    assert not status(cluster)
    assert [run["display_name"] for run in api.runs.values()] == ["helmets-of-two"]


def test_nothing_is_sent_where_a_path_means_nothing(api):
    done = CliRunner().invoke(app, ["sedna", str(FILES / "helmet_joint.yaml"), "--schedule", "--host", api.url])
    assert done.exit_code == 1
    assert "data_url is required" in done.stderr
    assert "job_root='jobs/helmets-of-two' is a local path" in done.stderr
    assert not api.runs
