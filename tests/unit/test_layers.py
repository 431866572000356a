"""What may import what: core <- logic of a phase <- its component.py <- pipelines."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSED = {"component.py"}  # the only files of a phase that may use other phases
# The logic that runs in another place than the step which needs it, and may be used by every phase.
FACES = {"components.images"}


def imports(path: Path) -> set[str]:
    """The modules of this repository that a file imports, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("components", "pipelines", "kfp")}


def files(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def phase(name: str) -> str:
    return ".".join(name.split(".")[:2])


def test_components_never_import_pipelines():
    wrong = {
        (path.relative_to(REPOSITORY).as_posix(), name)
        for path in files("components")
        for name in imports(path)
        if name.startswith("pipelines")
    }
    assert not wrong


def test_core_imports_core_alone():
    wrong = {
        (path.relative_to(REPOSITORY).as_posix(), name)
        for path in files("components/core")
        for name in imports(path)
        if phase(name) not in ("components.core", "components")
    }
    assert not wrong


def test_the_logic_of_a_phase_imports_core_and_itself_and_never_kfp():
    wrong = set()
    for path in files("components"):
        own = phase(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
        if path.name in COMPOSED or own in ("components.core", *FACES):
            continue
        allowed = ("components", "components.core", own)
        wrong |= {(path.relative_to(REPOSITORY).as_posix(), n) for n in imports(path) if phase(n) not in allowed}
    assert not wrong


def circles(uses: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules each of which imports every other one, by some way."""
    reached: dict[str, set[str]] = {}
    for start in uses:
        found, waiting = set(), [start]
        while waiting:
            new = uses[waiting.pop()] - found
            found |= new
            waiting += new
        reached[start] = found
    groups = {frozenset({m, *(o for o in reached[m] if m in reached[o])}) for m in uses if m in reached[m]}
    return sorted(map(set, groups), key=sorted)


def test_circles_are_found():
    uses = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}
    assert circles(uses) == [{"b", "c"}]


def test_no_modules_import_each_other_in_a_circle():
    paths = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (*files("components"), *files("pipelines"))
    }
    # A package and its modules are one: what is outside imports from the package.
    uses = {
        name: {found for found in imports(path) if found in paths and found not in (name, name.rpartition(".")[0])}
        for name, path in paths.items()
    }
    assert circles(uses) == []
