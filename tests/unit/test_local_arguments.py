"""Parameters as people write them, as the types that KFP insists on."""

import pytest
from kfp.dsl.types import type_utils

from components.core import parameters
from pipelines.local import parse_arguments
from pipelines.registry import PIPELINES


@pytest.mark.parametrize("name", PIPELINES)
def test_every_number_may_be_written_whole_or_not_and_every_truth_as_a_number(name):
    pipeline = PIPELINES[name]
    for parameter, spec in pipeline.component_spec.inputs.items():
        spellings = {"Float": ("1", "1.0", 1, 1.0), "Integer": ("1", "1.0", 1, 1.0), "Boolean": ("true", "1", True, 1)}
        for spelling in spellings.get(spec.type, ()):
            pairs = [f"{parameter}={spelling}"] if isinstance(spelling, str) else []
            given = parse_arguments(pipeline, pairs, {} if pairs else {parameter: spelling})
            wanted = {"Float": float, "Integer": int, "Boolean": bool}[spec.type]
            assert (type(given[parameter]), given[parameter]) == (wanted, 1), (parameter, spelling)
            assert type_utils.get_canonical_type_name_for_type(wanted) == spec.type


def test_what_is_no_such_number_is_left_for_the_check_to_tell():
    given = parse_arguments(
        PIPELINES["incremental-learning"], ["epochs=3.5", "trial_hours=true", "max_loss=few", "force_train=2"], {}
    )
    assert given == {"epochs": 3.5, "trial_hours": True, "max_loss": "few", "force_train": 2}
    told = "\n".join(parameters.problems(given, ["train", "gate", "deploy", "round"]))
    assert all(name in told for name in given)
