"""The house rules: imports point down, nothing unsafe is loaded, stdout belongs to the commands."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "v2t_cli"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")

# From the bottom up. Folders on one floor do not import each other.
FLOORS = [{"core"}, {"io"}, {"models"}, {"decoding"}, {"training", "evaluation"}, {"pipelines"}, {"api", "cli"}]
COMMAND_LINE = {"cli", "options", "boundary", "__main__"}  # count as one folder


def name_of(path: Path) -> str:
    """core.config for v2t_cli/core/config.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def folder_of(module: str) -> str:
    """The folder of a module; of a module at the top, its own name."""
    first = module.partition(".")[0]
    return "cli" if first in COMMAND_LINE else first


def imported(path: Path) -> set[str]:
    """The modules of this package that a module imports, also inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "v2t_cli":
            inner = node.module.removeprefix("v2t_cli").removeprefix(".")
            for alias in node.names:
                longer = f"{inner}.{alias.name}".removeprefix(".")
                names.add(longer if PACKAGE.joinpath(*longer.split(".")).with_suffix(".py").exists() else inner)
    return names - {""}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    floor = {folder: number for number, folders in enumerate(FLOORS) for folder in folders}
    folder = folder_of(name_of(path))
    for other in map(folder_of, imported(path)):
        assert other == folder or floor[other] < floor[folder], f"{name_of(path)} imports from {other}"


def test_imports_make_no_circle():
    tuple(TopologicalSorter({name_of(path): imported(path) for path in MODULES}).static_order())  # raises CycleError


def test_every_folder_has_a_floor():
    assert {folder_of(name_of(path)) for path in MODULES} == set.union(*FLOORS)


def test_only_the_commands_print():
    for path in MODULES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not prints or name_of(path) == "cli", f"{path.name} prints"


def test_nothing_unpickles():
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        for word in ("allow_pickle=True", "torch.load(", "import pickle", "trust_remote_code=True", "yaml.load("):
            assert word not in source, f"{path.name}: {word}"
