import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from kfp import dsl
from kfp.compiler import Compiler

import pipelines.schedule
from components.core.errors import InputError
from components.core.version import VERSION
from pipelines.client import Server, connect, submit
from pipelines.cron import parse_cron
from pipelines.schedule import Timing, pause, remove, resume, schedule, status
from tests.client.fake_api import FakeApi

NAME = "helmet-detection"
ARGUMENTS = {"data_url": "s3://images/voc.zip", "job_root": "s3://jobs/helmet"}
MINUTE = Timing.of(every="1m")
CHANGED = ARGUMENTS | {"epochs": 7}


@pytest.fixture
def said():
    return []


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def look(data_url: str, job_root: str, epochs: int, seed: int):
    print(data_url, job_root, epochs, seed)


@dsl.pipeline(name=NAME)
def small(data_url: str, job_root: str, epochs: int = 1, seed: int = 0):
    look(data_url=data_url, job_root=job_root, epochs=epochs, seed=seed).set_caching_options(False)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A pipeline that is read quicker than the real ones."""
    path = tmp_path_factory.mktemp("package") / "small.yaml"
    Compiler().compile(small, str(path))
    return str(path)


@pytest.fixture
def put(cluster, package, said):
    """Schedule, with what a test does not care about filled in."""

    def call(arguments=ARGUMENTS, timing=MINUTE, pipeline=package, **options):
        return schedule(cluster, pipeline, arguments, timing, tell=said.append, **options)

    return call


def running(api):
    return [run for run in api.runs.values() if run["state"] in ("PENDING", "RUNNING")]


def epochs(recurring_run):
    return recurring_run["runtime_config"]["parameters"].get("epochs")


# Timing.


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), (" 60s ", 60)])
def test_every(text, seconds):
    assert Timing.of(every=text).interval == seconds


@pytest.mark.parametrize("text", ["5", "m", "-5m", "5 minutes", "1.5h", "5M", "1h30m"])
def test_every_that_is_no_length_of_time(text):
    with pytest.raises(InputError, match="is not an interval: write 30s, 5m, 2h or 1d"):
        Timing.of(every=text)


@pytest.mark.parametrize("text", ["0s", "1s", "29s", "0m"])
def test_every_that_is_too_often(text):
    with pytest.raises(InputError, match=f"'{text}' is too often: the server checks every 30 seconds"):
        Timing.of(every=text)


@pytest.mark.parametrize("given", [{}, {"every": "5m", "cron": "0 */5 * * * *"}])
def test_exactly_one_of_every_and_cron(given):
    with pytest.raises(InputError, match="either --every, such as 5m, or --cron"):
        Timing.of(**given)


@pytest.mark.parametrize(
    ("text", "meaning", "right"),
    [
        ("*/5 * * * *", "5 seconds", "0 */5 * * * *"),
        ("10 10 * * *", "1 hour", "0 10 10 * * *"),
        ("0 9 * * 1-5", "1 hour", "0 0 9 * * 1-5"),
        ("* * * * *", "1 second", "0 * * * * *"),
        ("30 4  1 * *", "1 day", "0 30 4 1 * *"),
    ],
)
def test_cron_of_five_fields_is_told_with_what_it_would_do(text, meaning, right):
    with pytest.raises(InputError) as told:
        Timing.of(cron=text)
    assert str(told.value) == (
        f"cron {text!r} has 5 fields: KFP reads the first as seconds and would run every {meaning}; write {right!r}"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0 9 25 * *", "has 5 fields: KFP reads the first as seconds; write '0 0 9 25"),
        ("@hourly", "has 1 fields, not 6: second minute hour"),
        ("0 0 0 1 1 * 2026", "has 7 fields, not 6"),
        ("60 * * * * *", "second '60' is not within 0-59"),
        ("0 60 * * * *", "minute '60' is not within 0-59"),
        ("0 0 24 * * *", "hour '24' is not within 0-23"),
        ("0 0 0 0 * *", "day of the month '0' is not within 1-31"),
        ("0 0 0 1 13 *", "month '13' is not within 1-12"),
        ("0 0 0 * * 7", "day of the week '7' is not within 0-6"),
        ("0 5-1 * * * *", "minute '5-1' is not within 0-59"),
        ("0 */0 * * * *", "minute '\\*/0' has a step of 0"),
        ("0 0 0 L * *", "day of the month 'L' is not within 1-31"),
        ("0 0 0 * foo *", "month 'foo' is not within 1-12"),
        ("0 1,,2 * * * *", "'' is not a minute"),
        ("0 -5 * * * *", "'-5' is not a minute"),
        ("0 0 0 30 2 *", "never fires"),
        ("*/10 * * * * *", "would run every 10 seconds: the server checks every 30 seconds"),
        ("0,59 * * * * *", "would run every 1 second: "),
    ],
)
def test_cron_that_is_refused(text, complaint):
    with pytest.raises(InputError, match=complaint):
        Timing.of(cron=text)


@pytest.mark.parametrize(
    ("text", "fires"),
    [
        ("0 */5 * * * *", ["2024-02-28T23:55:00", "2024-02-29T00:00:00", "2024-02-29T00:05:00"]),
        ("0 0 9 ? * MON-FRI", ["2024-02-29T09:00:00", "2024-03-01T09:00:00", "2024-03-04T09:00:00"]),
        ("0 0 0 29 feb *", ["2024-02-29T00:00:00", "2028-02-29T00:00:00"]),
        ("0 0 0 1 * 1", ["2024-03-01T00:00:00", "2024-03-04T00:00:00", "2024-03-11T00:00:00"]),  # either day will do
        ("15 30 22/1 * * *", ["2024-02-29T22:30:15", "2024-02-29T23:30:15", "2024-03-01T22:30:15"]),
        ("0 50-59/5,1 23 * * *", ["2024-02-28T23:55:00", "2024-02-29T23:01:00", "2024-02-29T23:50:00"]),
    ],
)
def test_when_cron_fires(text, fires):
    moment = datetime(2024, 2, 28, 23, 50, 1, tzinfo=UTC)
    found = [f"{fire:%Y-%m-%dT%H:%M:%S}" for fire in islice(parse_cron(text).after(moment), 3)]
    assert found == fires


def test_start_and_end_are_taken_in_any_zone():
    timing = Timing.of(every="1h", start="2126-01-31T08:00:00+01:00", end="2126-02-01T00:00:00Z")
    assert (timing.start, timing.end) == ("2126-01-31T07:00:00Z", "2126-02-01T00:00:00Z")
    assert str(timing) == "every 1 hour from 2126-01-31T07:00:00Z until 2126-02-01T00:00:00Z"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"start": "tomorrow"}, "'tomorrow' is not a time: write 2026-01-31T08:00:00Z"),
        ({"start": "2126-01-31T08:00:00"}, "has no time zone: append Z for UTC"),
        ({"start": "2126-01-31"}, "has no time zone"),
        ({"end": "2001-01-01T00:00:00Z"}, "the end 2001-01-01T00:00:00Z has passed"),
        (
            {"start": "2126-01-02T00:00:00Z", "end": "2126-01-02T00:00:00Z"},
            "the end 2126-01-02T00:00:00Z is not after the start 2126-01-02T00:00:00Z",
        ),
    ],
)
def test_times_that_are_refused(given, complaint):
    with pytest.raises(InputError, match=complaint):
        Timing.of(every="1m", **given)


@pytest.mark.parametrize(
    "given",
    [
        {"every": "99999999999999d"},
        {"every": "999999999d", "end": "2126-01-01T00:00:00Z"},
        {"every": "1m", "start": "0001-01-01T00:00:00+14:00"},
        {"every": "1m", "end": "9999-12-31T23:59:59-01:00"},
        {"cron": "0 0 0 1 1 *", "start": "9999-12-30T00:00:00Z"},
    ],
)
def test_times_that_no_calendar_has(given):
    with pytest.raises(InputError, match="is beyond the year 9999, or before the year 1"):
        Timing.of(**given)


def test_a_cron_that_the_server_would_find_no_time_for():
    with pytest.raises(InputError, match="nothing would run .*: the server looks no further than five years ahead"):
        Timing.of(cron="0 0 0 29 2 *", start="2097-01-01T00:00:00Z")  # 2100 is no leap year


def test_a_schedule_may_end_as_late_as_can_be():
    assert Timing.of(cron="0 0 0 1 1 *", end="9999-12-31T23:59:59Z")


def test_a_schedule_may_end_with_its_first_run():
    times = {"start": "2126-01-01T00:00:00Z", "end": "2126-01-02T00:00:00Z"}
    assert Timing.of(every="1d", **times)
    assert Timing.of(cron="0 0 0 2 1 *", **times)


@pytest.mark.parametrize(
    "often", [{"every": "2d"}, {"cron": "0 0 0 29 2 *"}, {"every": "1h", "start": "2026-03-01T23:30:00Z"}]
)
def test_a_schedule_that_would_end_before_its_first_run(often, monkeypatch):
    monkeypatch.setattr(pipelines.schedule, "_now", lambda: datetime(2026, 3, 1, tzinfo=UTC))
    with pytest.raises(InputError, match="the first run would come after the end"):
        Timing.of(**often, end="2026-03-02T00:00:00Z")


# Making.


def test_what_is_made(api, put, said):
    made = put(pipeline=NAME)
    (found,) = api.named(NAME)
    assert found["max_concurrency"] == "1"
    assert found["no_catchup"] is True
    assert found["status"] == "ENABLED"
    assert found["trigger"] == {"periodic_schedule": {"interval_second": "60"}}
    assert found["runtime_config"]["parameters"] == ARGUMENTS
    assert api.spec_of(found)["pipelineInfo"]["name"] == NAME
    (pipeline,), (version,) = api.pipelines.values(), api.versions.values()
    assert found["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert pipeline["tags"] == {"edge-learning": VERSION}
    assert found["description"].startswith("helmet-detection every 1 minute; made by python -m pipelines schedule")
    assert said == [f"helmet-detection is scheduled: every 1 minute: {made.url}"]
    assert made.url == f"{api.url}/#/recurringrun/details/{found['recurring_run_id']}"


def test_cron_start_and_end_reach_the_server(api, put):
    put(timing=Timing.of(cron="0 */5  * * * *", start="2126-01-01T00:00:00Z", end="2126-02-01T00:00:00Z"))
    (found,) = api.named(NAME)
    times = {"start_time": "2126-01-01T00:00:00Z", "end_time": "2126-02-01T00:00:00Z"}
    assert found["trigger"] == {"cron_schedule": {"cron": "0 */5 * * * *", **times}}


def test_the_same_again_does_nothing(api, put, said):
    put()
    before = len(api.requests)
    put(dict(reversed(ARGUMENTS.items())), Timing.of(every="60s"))
    assert said[-1].startswith("helmet-detection is unchanged: ")
    assert {request.split()[0] for request in api.requests[before:]} == {"GET"}
    assert len(api.named(NAME)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": CHANGED},
        {"timing": Timing.of(every="2m")},
        {"timing": Timing.of(cron="0 * * * * *")},
        {"experiment": "another"},
        {"service_account": "trainer"},
        {"pipeline_root": "s3://artifacts"},
    ],
)
def test_every_change_replaces(api, put, said, change):
    first = put()
    second = put(**change)
    assert said[-1].startswith("helmet-detection is replaced; a run in progress continues: ")
    assert [one["recurring_run_id"] for one in api.enabled(NAME)] == [second.id] != [first.id]
    assert api.most_enabled == 1


def test_schedules_of_other_names_are_left_alone(api, put):
    other = put(name="other")
    put(CHANGED)
    put(ARGUMENTS)
    assert [one["recurring_run_id"] for one in api.enabled("other")] == [other.id]


@pytest.mark.parametrize("name", [" x", "x ", "x" * 129, "a\nb"])
def test_a_name_that_is_refused(put, api, name):
    before = len(api.requests)
    with pytest.raises(InputError, match="must have 1 to 128 characters"):
        put(name=name)
    assert len(api.requests) == before


def test_wrong_parameters_are_told_before_anything_is_sent(put, api):
    before = len(api.requests)
    with pytest.raises(InputError, match="1 parameter is wrong: epochs=-1"):
        put(ARGUMENTS | {"epochs": -1}, pipeline=NAME)
    assert len(api.requests) == before


def test_what_forces_a_round_is_not_for_every_poll(put, api):
    before = len(api.requests)
    given = {"feed_url": "s3://feed/a", "job_root": "s3://jobs/a", "force_train": True}
    with pytest.raises(
        InputError, match="force_train would run a round at every poll, regardless of trigger_conditions"
    ):
        put(given, pipeline="incremental-learning")
    assert len(api.requests) == before


def test_what_was_made_elsewhere_is_left_alone(api, cluster, put):
    put()
    (found,) = api.named(NAME)
    found["description"] = "made by hand"
    with pytest.raises(
        InputError,
        match="'helmet-detection' was not created with this command and is left unchanged: give another --name",
    ):
        put(CHANGED)
    for change in (pause, resume, remove):
        with pytest.raises(InputError, match="unknown schedule 'helmet-detection': there are none"):
            change(cluster, NAME)
    assert api.named(NAME) == [found]


def test_many_schedules_are_found_page_by_page(api, cluster, put):
    put(name="the one")
    (one,) = api.named("the one")
    for number in range(120):
        key = f"{number:03}"
        api.recurringruns[key] = one | {"recurring_run_id": key, "display_name": f"other {key}", "_index": 0}
    assert len(status(cluster)) == 121
    put(CHANGED, name="other 119")
    assert [epochs(found) for found in api.enabled("other 119")] == [7]


# Running, on the controller's clock.


def test_runs_never_overlap(api, put):
    api.run_seconds = 170
    put()
    api.advance(1800)
    assert api.most_running == 1
    assert len(api.runs) == 1 + (1800 - 60) // 170


def test_after_a_pause_there_is_one_run_and_no_burst(api, cluster, put, said):
    api.run_seconds = 10
    put()
    api.advance(150)
    assert len(api.runs) == 2
    pause(cluster, NAME, tell=said.append)
    api.advance(3600)
    assert len(api.runs) == 2
    resume(cluster, NAME, tell=said.append)
    api.advance(50)
    assert len(api.runs) == 3
    api.advance(60)
    assert len(api.runs) == 4
    assert said[-2:] == ["helmet-detection is paused", "helmet-detection is enabled: every 1 minute"]


def test_the_fake_would_show_a_burst(api, put):
    """The test above could not fail if the controller never caught up."""
    api.run_seconds = 10
    put()
    api.advance(70)
    (found,) = api.named(NAME)
    found |= {"no_catchup": False, "status": "DISABLED", "max_concurrency": "10"}
    api.advance(3600)
    found["status"] = "ENABLED"
    api.advance(100)
    assert len(api.runs) > 10


def test_pausing_spares_the_run_in_progress(api, cluster, put):
    put()
    api.advance(70)
    pause(cluster, NAME, tell=len)
    api.advance(200)
    assert [run["state"] for run in api.runs.values()] == ["SUCCEEDED"]


def test_pause_and_resume_twice(cluster, put, said):
    put()
    for change in (pause, pause, resume, resume):
        change(cluster, NAME, tell=said.append)
    assert said[1:] == [
        "helmet-detection is paused",
        "helmet-detection was already paused",
        "helmet-detection is enabled: every 1 minute",
        "helmet-detection was already enabled",
    ]


def test_scheduling_a_paused_one_again_enables_it(api, cluster, put, said):
    made = put()
    pause(cluster, NAME, tell=len)
    assert put().id == made.id
    assert said[-1].startswith("helmet-detection is enabled again: ")
    assert len(api.enabled(NAME)) == 1


def test_replacing_spares_the_run_in_progress(api, put):
    put()
    api.advance(70)
    (run,) = running(api)
    put(CHANGED)
    api.advance(300)
    assert run["state"] == "SUCCEEDED"
    assert not api.killed
    assert {epochs(run) for run in list(api.runs.values())[1:]} == {7}


def test_the_fake_kills_runs_of_what_is_deleted(api, cluster, put):
    """The test above could not fail if deleting were harmless."""
    made = put()
    api.advance(70)
    cluster.client.delete_recurring_run(made.id)
    assert len(api.killed) == 1


def test_a_replaced_one_is_deleted_when_its_run_has_finished(api, put):
    api.run_seconds = 1000
    first = put()
    api.advance(70)
    put(CHANGED)
    for _ in range(5):
        api.advance(100)
        put(CHANGED)
        assert first.id in api.recurringruns
    api.advance(600)
    put(CHANGED)
    assert first.id not in api.recurringruns
    assert not api.killed


def test_a_run_that_is_not_listed_yet_is_spared(api, put):
    """What the controller starts is known to the API a little later; meanwhile there seems to be nothing to kill."""
    api.reporting_seconds = 10
    first = put()
    api.advance(60)
    put(CHANGED)
    put(CHANGED)
    assert first.id in api.recurringruns
    assert not api.killed


def test_replacing_again_and_again_does_not_keep_it_from_running(api, put):
    api.run_seconds = 10
    for number in range(12):
        put(ARGUMENTS | {"seed": number}, Timing.of(every="5m"))
        api.advance(100)
    assert len(api.runs) == 4
    assert api.most_running == 1


def test_an_interval_counts_from_the_last_run(api, put):
    api.run_seconds = 10
    put(timing=Timing.of(every="1h"))
    api.advance(3600 + 3000)
    put(CHANGED, Timing.of(every="1h"))
    assert len(api.runs) == 1
    api.advance(610)
    assert len(api.runs) == 2


def test_a_start_that_is_given_counts(api, put):
    put(timing=Timing.of(every="1m", start=f"{api.now + timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"))
    put(timing=Timing.of(every="2m", start=f"{api.now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"))
    api.advance(3600 + 110)
    assert not api.runs
    api.advance(20)
    assert len(api.runs) == 1


def test_nothing_runs_after_the_end(api, put):
    api.run_seconds = 10
    put(timing=Timing.of(every="1m", end=f"{api.now + timedelta(seconds=150):%Y-%m-%dT%H:%M:%SZ}"))
    api.advance(3600)
    assert len(api.runs) == 2


def test_waiting_lets_the_old_run_end_first(api, put, said):
    api.run_seconds = 400
    put()
    api.advance(70)
    (run,) = running(api)
    put(CHANGED, wait=True)
    assert run["state"] == "SUCCEEDED"
    assert any(line.startswith("waiting for the run in progress: ") for line in said)
    api.advance(500)
    assert api.most_running == 1
    assert len(api.runs) > 1


def test_changing_back_and_forth(api, put):
    api.run_seconds = 10
    for number in range(12):
        put([ARGUMENTS, CHANGED][number % 2])
        api.advance(130)
    assert [epochs(found) for found in api.enabled(NAME)] == [7]
    assert len(api.named(NAME)) <= 3
    assert (api.most_enabled, api.most_running, api.killed) == (1, 1, set())


# What goes wrong on the way.


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", range(1, 6))
@pytest.mark.parametrize("then", [CHANGED, ARGUMENTS, ARGUMENTS | {"epochs": 8}], ids=["same", "back", "another"])
def test_a_call_that_is_killed_anywhere_is_completed_by_the_next(api, put, change, after, then):
    api.run_seconds = 200
    put()
    api.advance(70)
    (run,) = running(api)
    api.die_at(change, after)
    try:
        put(CHANGED)
    except InputError as error:
        assert "cannot be reached" in str(error)
    api.advance(50)
    assert len(api.enabled(NAME)) <= 1
    assert api.heal() == (change <= 3), "replacing makes, disables and enables"
    put(then)
    assert [epochs(found) for found in api.enabled(NAME)] == [then.get("epochs")]
    api.advance(1000)
    put(then)
    assert len(api.named(NAME)) == 1, "what was replaced is cleaned up"
    assert api.most_enabled == 1
    assert run["state"] == "SUCCEEDED"
    assert not api.killed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", range(1, 7))
def test_a_first_call_that_is_killed_anywhere(api, put, change, after):
    api.die_at(change, after)
    with suppress(InputError):
        put()
    died = api.heal()
    assert died == (change <= 5), "pipeline, version, experiment, schedule, enabling it"
    made = put()
    assert [one["recurring_run_id"] for one in api.named(NAME)] == [made.id]
    assert len(api.enabled(NAME)) == 1
    assert len(api.experiments) == len(api.pipelines) == len(api.versions) == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", range(1, 4))
def test_a_removal_that_is_killed_anywhere(api, cluster, put, change, after):
    put()
    put(CHANGED)
    api.die_at(change, after)
    with suppress(InputError):
        remove(cluster, NAME, tell=len)
    assert api.heal()
    if api.named(NAME):
        assert remove(cluster, NAME, tell=len)
    assert not api.named(NAME)


def test_a_replacement_that_the_server_refuses_leaves_the_old_one_on(api, put):
    made = put()
    api.refuse = ("POST", "/recurringruns$", 400, "Invalid input error: no")
    with pytest.raises(InputError, match=r"refused the request \(400 Bad Request\): Invalid input error: no$"):
        put(CHANGED)
    assert [one["recurring_run_id"] for one in api.enabled(NAME)] == [made.id]


@pytest.mark.parametrize("other", [ARGUMENTS, CHANGED], ids=["same", "different"])
def test_two_at_the_same_time_leave_one(api, package, other):
    outcomes = []

    def call(arguments):
        try:
            schedule(connect(Server(api.url)), package, arguments, MINUTE, tell=len)
            outcomes.append("done")
        except InputError as error:
            outcomes.append(str(error))

    for _ in range(4):
        threads = [threading.Thread(target=call, args=(arguments,)) for arguments in (ARGUMENTS, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(api.enabled(NAME)) == 1, outcomes
    assert outcomes.count("done") >= 4
    assert all(outcome == "done" or "another user" in outcome for outcome in outcomes)


# Removing and telling.


def test_removing(api, cluster, put, said):
    put()
    put(CHANGED)
    assert remove(cluster, NAME, tell=said.append)
    assert not api.named(NAME)
    assert said[-1] == "helmet-detection is removed"
    with pytest.raises(InputError, match="unknown schedule 'helmet-detection': there are none"):
        remove(cluster, NAME)


@pytest.mark.parametrize("reporting_seconds", [0, 10])
def test_removing_spares_a_run_in_progress(api, cluster, put, said, reporting_seconds):
    api.reporting_seconds = reporting_seconds
    put()
    api.advance(60)
    assert not remove(cluster, NAME, tell=said.append)
    (run,) = running(api)
    assert said[-1].endswith(f"when its run in progress has finished: {api.url}/#/runs/details/{run['run_id']}")
    assert not api.enabled(NAME)
    api.advance(300)
    assert run["state"] == "SUCCEEDED"
    assert remove(cluster, NAME, tell=said.append)
    assert not api.named(NAME)
    assert not api.killed


def test_removing_what_somebody_else_removes_at_the_same_time(api, cluster, put):
    put()
    api.refuse = ("DELETE", "/recurringruns/", 404, "recurring run not found")
    assert remove(cluster, NAME, tell=len)


def test_a_newer_server_spares_even_what_nobody_knew_of(api, cluster, put):
    api.knows_orphans, api.reporting_seconds = True, 3600
    put()
    api.advance(60)
    assert remove(cluster, NAME, tell=len)
    assert [run["state"] for run in api.runs.values()] == ["RUNNING"]
    assert not api.killed


def test_status(api, cluster, package, put):
    api.run_seconds = 10
    put(name="b", timing=Timing.of(cron="0 0 3 * * *"))
    made = put(name="a")
    api.advance(500)
    put(CHANGED, name="a")
    pause(cluster, "b", tell=len)
    submit(cluster, package, ARGUMENTS, tell=len)

    first, second = status(cluster)
    assert (first.name, first.enabled, str(first.timing)) == ("a", True, "every 1 minute")
    assert first.parameters == CHANGED
    assert first.runs == ()
    assert (second.name, second.enabled, str(second.timing)) == ("b", False, "at cron '0 0 3 * * *'")

    api.advance(120)
    (first,) = status(cluster, "a")
    assert [run.state for run in first.runs] == ["SUCCEEDED", "SUCCEEDED"]
    assert first.runs[0].created > first.runs[1].created
    assert len(api.runs_of(api.recurringruns[made.id])) == 8


def test_status_of_a_name_that_is_not_there(cluster, put):
    put(name="a")
    with pytest.raises(InputError, match="unknown schedule 'b': choose from a$"):
        status(cluster, "b")


def test_namespaces_are_kept_apart(package):
    with FakeApi(namespaces=("ann", "bob")) as api:
        for namespace in ("ann", "bob"):
            cluster = connect(Server(api.url, namespace=namespace))
            schedule(cluster, package, ARGUMENTS, MINUTE, tell=len)
            (found,) = status(cluster)
            assert api.recurringruns[found.id]["namespace"] == namespace
        schedule(cluster, package, CHANGED, MINUTE, tell=len)
        assert len(api.enabled(NAME)) == 2
        pause(connect(Server(api.url, namespace="ann")), NAME, tell=len)
        assert [one["namespace"] for one in api.enabled(NAME)] == ["bob"]
