import subprocess

from components.core.processes import module_command, module_environment


def test_a_child_finds_this_suite_in_a_folder_with_packages_of_the_same_names(tmp_path):
    for name in ("components", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('somebody else')")
    command = [*module_command("components.convert.build"), "nothing.json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=module_environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert "somebody else" not in done.stderr
    assert "nothing.json" in done.stderr  # the module itself complains


def test_what_is_on_the_path_already_stays_there(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/opt/plugins")
    assert module_environment()["PYTHONPATH"].endswith(":/opt/plugins")
