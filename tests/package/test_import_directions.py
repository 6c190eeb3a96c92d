"""The direction of imports, read from the syntax trees: never up to a later room, no circles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEVELS = (
    ("utils", "types", "errors"),
    ("config", "statistics", "tasks", "catalogue", "metrics", "nano"),
    ("encoders", "rendering", "models"),
    ("rewards", "rollout"),
    ("training", "evaluation"),
    ("reports.common",),
    ("completion",),
    ("recbench", "ablation", "analysis"),
    ("reports",),
    ("pipelines",),
    ("cli",),
    ("__main__",),
)
"""From the ground up: a room imports those of its own level and of lower ones."""
APART = {("training", "evaluation"), ("evaluation", "training"), ("models", "rendering"), ("rendering", "models")}
"""Rooms of one level that must not know each other."""
SHIPPED_REWARDS_MAY_IMPORT = {
    "types",
    "errors",
    "utils",
    "config",
    "tasks",
    "metrics",
    "encoders",
    "catalogue",
    "rendering",
}
THE_DECLARATION = "grpo_mmpc.rewards.declaration"
"""The one module of the reward room that a plug-in imports."""


def files() -> dict[str, Path]:
    """Return the modules of the package and their files."""
    paths = {}
    for path in sorted((ROOT / "grpo_mmpc").rglob("*.py")):
        if "cpu_site" in path.parts:  # no module: Python runs it at the start of vLLM's child processes
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        paths[name] = path
    return paths


def room_of(module: str) -> str:
    parts = module.split(".")[1:]
    return "reports.common" if parts[:2] == ["reports", "common"] else parts[0] if parts else ""


def level_of(room: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if room in rooms)


def imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a file imports, also those for type checkers alone."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name in modules}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                imported |= {full} if full in modules else {str(node.module)} & set(modules)
    return imported - {"grpo_mmpc"}


MODULES = files()


def test_every_room_has_a_level():
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms == {room for level in LEVELS for room in level}


@pytest.mark.parametrize("room", [room for level in LEVELS for room in level])
def test_a_room_imports_only_its_own_level_and_lower_ones(room: str):
    for module, path in MODULES.items():
        if room_of(module) != room:
            continue
        for imported in imports(path, MODULES):
            other = room_of(imported)
            if other == room:
                continue
            assert level_of(other) <= level_of(room) and (room, other) not in APART, f"{module} imports {imported}"


def test_no_two_files_import_each_other_and_no_file_itself_through_others():
    graph = {name: imports(path, MODULES) - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for imported in sorted(graph[name]):
                visit(imported, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_shipped_rewards_use_only_what_scores():
    for file in sorted((ROOT / "rewards").glob("*.py")):
        imported = imports_of_a_plug_in(file) - {THE_DECLARATION}
        above = {room_of(name) for name in imported} - SHIPPED_REWARDS_MAY_IMPORT
        assert not above, f"{file.relative_to(ROOT)} imports {sorted(above)}"


def imports_of_a_plug_in(path: Path) -> set[str]:
    """Do as ``imports``, where modules of the same package are named relative to it."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    modules = [node.module or "" for node in nodes if node.level == 0]
    return {module for module in modules if module.startswith("grpo_mmpc.")}


def test_the_package_imports_neither_the_shipped_rewards_nor_the_build_of_its_weights_by_name():
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module or ""]
            assert not {name.split(".")[0] for name in names} & {"grpo_mmpc_rewards", "nano_weights"}, path
