"""The house rules: imports point down, nothing unsafe is loaded."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "v2t_cli"

# From the bottom up. A module imports from lines above its own, and from those before it on its line.
HOUSE = """
    lines errors choices metrics
    blocks config console files signatures
    history
    signals device processes hub texts vectors tokens acceleration
    encoder adapters outputs
    info batching model lm
    scoring card dataset checkpoint resume examples plan schedule window hooks
    search readers candidates edits generation correction
    loop decoding hypotheses
    preparation training evaluation audit rows report page
    api boundary options cli
    __main__
"""


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("v2t_cli"):
            inner = node.module.removeprefix("v2t_cli").removeprefix(".")
            names |= {inner} if inner else {alias.name for alias in node.names}
    return names - {"__version__"}


def test_imports_point_down():
    order = HOUSE.split()
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(order)
    for place, module in enumerate(order):
        upward = imported(PACKAGE / f"{module}.py") - set(order[:place])
        assert not upward, f"{module} imports {upward} from above"


def test_core_prints_nothing():
    for path in PACKAGE.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not prints or path.stem == "cli", f"{path.name} prints"


def test_nothing_unpickles():
    for path in PACKAGE.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        for word in ("allow_pickle=True", "torch.load(", "import pickle", "trust_remote_code=True", "yaml.load("):
            assert word not in source, f"{path.name}: {word}"
