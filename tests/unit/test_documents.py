import math

import pytest

from components.core.documents import MAX_NODES, MAX_YAML_CHARACTERS, read_json, read_yaml, read_yaml_documents
from components.core.errors import InputError

BOMB = "a0: &a0 {k: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 8)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("NO", "NO"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+3", 3),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-11-20", "2026-11-20"),
        ("1e-4", 0.0001),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("~", None),
        ("null", None),
        ("", None),
        ("''", ""),
        ("'010'", "010"),
    ],
)
def test_values_are_those_of_yaml_1_2(text, value):
    found = read_yaml(f"x: {text}", "data.yaml")["x"]
    assert found == value
    assert type(found) is type(value)


def test_what_is_not_a_number():
    assert math.isnan(read_yaml(".nan", "data.yaml"))


def test_aliases_and_merged_mappings():
    text = "defaults: &d {epochs: 3, device: cpu}\nnight: {<<: *d, epochs: 30}\nagain: *d"
    assert read_yaml(text, "p.yaml") == {
        "defaults": {"epochs": 3, "device": "cpu"},
        "night": {"epochs": 30, "device": "cpu"},
        "again": {"epochs": 3, "device": "cpu"},
    }


def test_an_empty_document_and_one_with_a_mark():
    assert read_yaml("# nothing\n", "data.yaml") is None
    assert read_yaml("\ufeffnames: [a]", "data.yaml") == {"names": ["a"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x: " + "[" * 100_000 + "]" * 100_000, "nested more than 50 deep in line 1"),
        ("? " * 30_000 + "a", "nested more than 50 deep"),
        ("- " * 30_000 + "a", "nested more than 50 deep"),
        ("{" * 30_000, "nested more than 50 deep"),
        (BOMB, f"more than {MAX_NODES:,} values, counting what its aliases repeat"),
        ("x: [" + "a," * (MAX_NODES + 1) + "]", f"more than {MAX_NODES:,} values"),
        ("a: &a [*a]", "the alias *a in line 1 refers to an unknown or unfinished anchor"),
        ("a" * (MAX_YAML_CHARACTERS + 1), "characters of YAML exceed the limit of 1,048,576"),
        ("x: !!bool maybe", "a value in it does not match its tag"),
        ('x: !!int ""', "a value in it does not match its tag"),
        ('x: !!float ""', "a value in it does not match its tag"),
        ("x: !!timestamp nope", "a value in it does not match its tag"),
        ("x: " + "1" * 50_000, "a value in it does not match its tag"),
        ("x: !!python/object/apply:os.system [ls]", "not valid YAML in line 1 (could not determine a constructor"),
        ("a:\n\t- b", "not valid YAML in line 2 (found character that cannot start any token; indent with spaces"),
        ("a: [1", "not valid YAML in line 2"),
        ("a: 1\n---\nb: 2", "not valid YAML in line 2 (but found another document)"),
        ("? [a]\n: b", "found unhashable key"),
        ("a: 1\nb: {c: 2}\na: 3", "not valid YAML in line 3 (duplicate key 'a')"),
        ("- a: [a, a]\n  b: {a: 1, b: 2, a: 3}", "not valid YAML in line 2 (duplicate key 'a')"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_what_is_refused_is_one_line_that_names_the_file(text, reason):
    with pytest.raises(InputError) as caught:
        read_yaml(text, "data.yaml")
    message = str(caught.value)
    assert message.startswith("data.yaml: ")
    assert reason in message
    assert "\n" not in message
    assert len(message) < 250


def test_json():
    assert read_json(b'{"a": [1, null]}', "a.json") == {"a": [1, None]}
    for text in ("[" * 100_000, "{", "", "1" * 5_000, b"\xff\xff"):
        with pytest.raises(InputError, match=r"^a\.json: not valid JSON \("):
            read_json(text, "a.json")


def test_many_keys_are_compared_in_one_pass():
    text = "".join(f"class-{number}: {number}\n" for number in range(40_000))
    assert len(read_yaml(text, "data.yaml", as_text=True)) == 40_000
    with pytest.raises(InputError, match=r"data\.yaml: .*duplicate key 'class-7'"):
        read_yaml(f"{text}class-7: 8\n", "data.yaml", as_text=True)


def test_what_is_merged_is_no_duplicate():
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}\nd: [x, x]\n? x\n: x\n"
    assert read_yaml(text, "p.yaml") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 3, "y": 4}, "d": ["x", "x"], "x": "x",
    }  # fmt: skip


def test_several_documents():
    assert read_yaml_documents("a: 1\n---\n- yes\n", "p.yaml") == [{"a": 1}, ["yes"]]
    with pytest.raises(InputError, match=r"p\.yaml: nested more than 50 deep"):
        read_yaml_documents("a: 1\n---\n" + "[" * 100_000, "p.yaml")
