"""The table of parameters, the pipelines, their steps and the logic agree."""

import ast
import inspect
from pathlib import Path

import pytest
from kfp import dsl

from components.core.parameters import MODELS, ROWS, WORKFLOWS, Parameters
from pipelines.contract import different_defaults, problems, sections_read
from pipelines.docs import pages, stale_pages
from pipelines.registry import COMPONENTS, PIPELINES

REPOSITORY = Path(__file__).resolve().parents[2]
LOGIC = [path for path in sorted((REPOSITORY / "components").rglob("*.py")) if "parameters" not in path.parts]


def test_inputs_sections_and_defaults_agree():
    assert problems(PIPELINES, COMPONENTS) == []


@dsl.component(base_image="example/tool:1", install_kfp_package=False)
def learns(job_root: str, settings: dict = {}) -> str:  # noqa: B006
    """Learn.

    Args:
        job_root: where.
        settings: parameters.
    """
    from components.core.parameters import TrainSettings, read

    return str(read(TrainSettings, settings).epochs)


@dsl.pipeline(name="forgetful")
def forgetful(job_root: str, nobody_takes_it: int = 3, settings: dict = {"mine": {"label_budget": 5}}) -> str:  # noqa: B006
    return learns(job_root=job_root, settings=settings).output


def test_what_a_pipeline_forgets_is_reported():
    found = problems({"forgetful": forgetful}, {"learns": learns})
    assert "forgetful: no step takes the input nobody_takes_it" in found
    assert any(line.startswith("forgetful: learns reads ") and "epochs" in line for line in found)
    assert "forgetful: no step reads the section mine" in found


def test_a_default_of_the_logic_that_is_not_the_tables_is_reported():
    source = """
def logic(job, epochs=3, *, seed=0, image_size="640", device=None, label_budget=LATEST, batch, other=7): ...
"""
    (function,) = ast.parse(source).body
    assert list(different_defaults(function)) == ["epochs=3"]


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def names(node: ast.AST) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def test_every_row_is_used_by_the_logic():
    """A row counts as used where a model of its section is read and the row is taken from it, or all rows are."""
    used: set[str] = set()
    for path in LOGIC:
        for function in functions(path):
            used |= rows_used(function)
    handed = {name for model in MODELS if not model.section for name in model.model_fields}  # inputs, not settings
    assert set(ROWS) - used - handed == set()


def rows_used(function: ast.FunctionDef) -> set[str]:
    by_name = {model.__name__: model for model in MODELS}
    named = {name: by_name[name] for name in names(function) if name in by_name}
    if not named:
        return set()
    attributes = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    used = {row for model in named.values() for row in model.model_fields if row in attributes}
    spread = {
        node.value.args[0].id if isinstance(node.value.args[0], ast.Name) else node.value.args[0].args[0].id
        for node in ast.walk(function)
        if isinstance(node, ast.keyword) and node.arg is None and is_dict_of_one(node.value)
    }
    for name in spread:
        for model in models_of(function, name, by_name):
            used |= accepted_by_logic(model)
    return used


def is_dict_of_one(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "dict"


def models_of(function: ast.FunctionDef, name: str, by_name: dict[str, type[Parameters]]) -> list[type[Parameters]]:
    """The models that a name stands for: itself, or what it was assigned from ``read(Model, ...)``."""
    if name in by_name:
        return [by_name[name]]
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(name in names(target) for target in node.targets):
            found += [by_name[read] for read in names(node.value) if read in by_name]
    return found


def accepted_by_logic(model: type[Parameters]) -> set[str]:
    """The rows of a model that some function of the logic takes as an argument and uses in its body."""
    found = set()
    for path in LOGIC:
        for function in functions(path):
            arguments = {argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]}
            found |= arguments & names(function) & model.model_fields.keys()
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_the_form_is_short_and_the_required_inputs_come_first(name):
    inputs = PIPELINES[name].component_spec.inputs
    assert len(inputs) <= (16 if name == "helmet-detection" else 20)
    required = [given for given, spec in inputs.items() if not spec.optional]
    assert sorted(inputs)[: len(required)] == sorted(required)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_form_shows_every_parameter_with_its_default(name):
    shown = PIPELINES[name].component_spec.inputs["settings"].default
    wanted = {phase.section: phase().model_dump() for phase in WORKFLOWS[name] if phase.section}
    assert shown == wanted


def test_every_row_has_a_sentence():
    for name, row in ROWS.items():
        assert (row.description and row.description[0].isupper()) or row.description[0] == "`", name
        assert row.description.endswith("."), name


def test_every_section_of_a_name_is_one_kind():
    kinds = {}
    for model in MODELS:
        for name, row in model.model_fields.items():
            assert kinds.setdefault(name, row.annotation) == row.annotation, name


def test_a_component_names_the_sections_that_it_reads():
    assert {model.section for model in sections_read(COMPONENTS["ingest"])} == {"common", "data"}
    assert sections_read(COMPONENTS["report"]) == set()


def test_pages_and_metadata_are_up_to_date():
    made = pages(PIPELINES, COMPONENTS)
    assert stale_pages(made) == []
    assert all(f"## {name}\n" in made[REPOSITORY / "components" / "README.md"] for name in COMPONENTS)
    assert all(f"## {name}\n" in made[REPOSITORY / "pipelines" / "README.md"] for name in PIPELINES)
    for name in (*COMPONENTS, *PIPELINES):
        assert any(f"name: {name.replace('-', '_')}\n" in text for path, text in made.items() if path.suffix == ".yaml")


def test_every_component_explains_its_ports():
    page = pages(PIPELINES, COMPONENTS)[REPOSITORY / "components" / "README.md"]
    assert "|  |" not in page
    assert inspect.getdoc(COMPONENTS["train"].python_func).splitlines()[0] in page
