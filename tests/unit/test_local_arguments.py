"""Parameters as people write them, as the types that KFP insists on."""

import pytest

from components.core import parameters
from components.core.parameters import ROWS, WORKFLOWS, kind_of
from pipelines.arguments import face_of
from pipelines.local import parse_arguments
from pipelines.registry import PIPELINES


@pytest.mark.parametrize("name", PIPELINES)
def test_every_number_may_be_written_whole_or_not_and_every_truth_as_a_number(name):
    pipeline = PIPELINES[name]
    for parameter in face_of(pipeline).names:
        kind = kind_of(ROWS[parameter].annotation)
        spellings = {float: ("1", "1.0", 1, 1.0), int: ("1", "1.0", 1, 1.0), bool: ("true", "1", True, 1)}
        for spelling in spellings.get(kind, ()):
            pairs = [f"{parameter}={spelling}"] if isinstance(spelling, str) else []
            given = parse_arguments(pipeline, pairs, {} if pairs else {parameter: spelling})
            assert (type(given[parameter]), given[parameter]) == (kind, 1), (parameter, spelling)


def test_what_is_no_such_number_is_left_for_the_check_to_tell():
    given = parse_arguments(
        PIPELINES["incremental-learning"],
        ["epochs=3.5", "canary_hours=true", "max_map50_drop=few", "force_train=2"],
        {},
    )
    assert given == {"epochs": "3.5", "canary_hours": "true", "max_map50_drop": "few", "force_train": "2"}
    told = "\n".join(parameters.problems(given, WORKFLOWS["incremental-learning"]))
    assert all(name in told for name in given)
