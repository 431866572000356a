import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from components.core import plugins
from components.core.errors import InputError
from components.core.lifelong.plug_points import PLUG_POINTS
from pipelines.plugged import registries


def test_a_duplicate_name_is_an_error_that_lists_the_known():
    registry = plugins.Registry("estimator")
    registry.register("one")(type("First", (), {}))
    with pytest.raises(InputError, match="'one' is registered twice.*choose from one"):
        registry.register("one")(type("Second", (), {}))


def test_an_unknown_name_is_an_error_that_lists_the_known():
    registry = plugins.Registry("estimator")
    registry.register("yolo")(type("Yolo", (), {}))
    with pytest.raises(InputError, match="unknown estimator 'yollo': choose from yolo"):
        registry.get("yollo")


def test_a_module_named_by_the_parameter_registers(tmp_path, monkeypatch):
    (tmp_path / "my_plugin_for_test.py").write_text(
        "from components.core import plugins\nregistry = plugins.Registry('thing')\nregistry.register('mine')(dict)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.load(" my_plugin_for_test ,")
    assert sys.modules["my_plugin_for_test"].registry.get("mine") is dict


def test_a_module_that_cannot_be_imported_is_an_error_that_names_it():
    with pytest.raises(InputError, match="no_such_module_at_all"):
        plugins.load("no_such_module_at_all")


def test_importing_a_module_twice_is_no_clash():
    registry = plugins.Registry("thing")
    registry.register("same")(dict)
    registry.register("same")(dict)
    assert registry.names() == ["same"]


def test_an_entry_point_adds_a_name(monkeypatch):
    class Point:
        name, value = "from-package", "collections:OrderedDict"

        def load(self):
            from collections import OrderedDict

            return OrderedDict

    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point()] if group == "edge_learning.things" else [])
    registry = plugins.Registry("thing")
    assert registry.names() == ["from-package"]


def test_a_package_that_cannot_be_imported_is_told_by_name(monkeypatch):
    point = EntryPoint("mine", "no_such_package.models:Mine", "edge_learning.things")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    with pytest.raises(InputError, match=r"thing 'mine' of an installed package: no_such_package.models:Mine cannot"):
        plugins.Registry("thing").names()


def test_a_script_that_ends_when_it_is_imported_is_no_plug_in(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "a_script_of_mine.py").write_text("import sys\nsys.exit('usage: a_script_of_mine DATA')\n")
    with pytest.raises(InputError, match=r"cannot be imported \(SystemExit: usage"):
        plugins.load("a_script_of_mine")


def test_groups_of_entry_points_are_such_as_setuptools_takes_and_are_called_as_the_page_says():
    for registry in registries():
        assert re.fullmatch(r"edge_learning\.\w+", registry.group)
    assert {point.group for point in PLUG_POINTS.values()} >= {
        "edge_learning.task_definitions", "edge_learning.unseen_policies", "edge_learning.re_recognitions",
    }  # fmt: skip
    page = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    assert {registry.group for registry in registries()} >= set(re.findall(r"`(edge_learning\.\w+)`", page))


def test_packages_are_searched_once_since_a_worker_asks_at_every_frame(monkeypatch):
    searched = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: searched.append(group) or [])
    things = plugins.Registry("thing")
    things.register("one")(str)
    assert [things.get("one"), things.get("one")] == [str, str]
    assert things.names() == ["one"]
    assert searched == ["edge_learning.things"]
    things.register("two")(int)
    assert things.names() == ["one", "two"]


def test_a_changed_file_of_a_plug_in_has_another_digest(tmp_path, monkeypatch):
    file = tmp_path / "my_plugin_to_change.py"
    file.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load("my_plugin_to_change")
    first = plugins.digest_of("my_plugin_to_change")
    assert first == plugins.digest_of("my_plugin_to_change")
    file.write_text("changed = True")
    assert plugins.digest_of("my_plugin_to_change") != first
