import logging

import pytest
from pydantic import BaseModel, ValidationError

from components.core.backoff import Backoff, doubled
from components.core.errors import one_line
from components.core.progress import Progress
from components.core.rate_limit import RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pause_doubles_up_to_the_longest():
    assert [doubled(0.5, 3, times) for times in (0, 1, 2, 3, 10_000)] == [0.5, 1, 2, 3, 3]


def test_a_backoff_doubles_stays_within_its_jitter_and_begins_again_after_a_success():
    backoff = Backoff(1, 8)
    for longest in (1, 2, 4, 8, 8):
        assert longest / 2 <= backoff.next() <= longest
    backoff.reset()
    assert 0.5 <= backoff.next() <= 1


def test_no_two_workers_of_a_fleet_pause_alike():
    assert len({Backoff(10, 60).next() for _ in range(50)}) == 50


def test_each_message_passes_once_per_interval():
    clock = Clock()
    limit = RateLimit(60, clock)
    assert [limit.allows("a"), limit.allows("a"), limit.allows("b"), limit.allows()] == [True, False, True, True]
    clock.now += 59
    assert not limit.allows("a")
    clock.now += 1
    assert limit.allows("a")


def test_a_clock_that_steps_back_silences_no_message():
    clock = Clock()
    limit = RateLimit(60, clock)
    limit.allows("a")
    clock.now = 10
    assert limit.allows("a")


def test_progress_logs_the_end_when_asked_to_and_every_step_without_an_interval(caplog):
    caplog.set_level(logging.INFO)
    log = logging.getLogger("work")
    quiet = Progress(log, "read {done} of {total}", 2)
    ending = Progress(log, "evaluated {done} of {total} images", 2, to_the_end=True)
    chatty = Progress(log, "{done} of {total} files", 1, seconds=0)
    for progress in (quiet, quiet, ending, ending):
        progress.advance()
    chatty.advance("3 bad")
    first, second = caplog.messages
    assert first.startswith("evaluated 2 of 2 images, ") and first.endswith("/s")
    assert second.startswith("1 of 1 files, ") and second.endswith(", 3 bad")


def test_the_problems_of_a_description_are_one_line():
    class Description(BaseModel):
        name: str
        sizes: list[int]

    with pytest.raises(ValidationError) as caught:
        Description.model_validate({"sizes": ["a", 2, "b", "c"]})
    assert one_line(caught.value) == (
        "name: Field required; "
        "sizes.0: Input should be a valid integer, unable to parse string as an integer; "
        "sizes.2: Input should be a valid integer, unable to parse string as an integer; and 1 more"
    )
    with pytest.raises(ValidationError) as caught:
        Description.model_validate_json("{")
    assert one_line(caught.value).startswith("it: Invalid JSON")
