"""The direction of imports, read from the syntax trees: a stage never reaches back to a later one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAVES = {"types", "errors", "assets", "console", "cpu_compat", "cluster", "files", "manifest", "processes"}
RECORDS = LEAVES | {"config", "tasks", "catalogue", "metrics", "statistics"}
SCORING = RECORDS | {"scoring"}
MIDDLE = SCORING | {"recbench", "policy", "prompts", "reward_mix", "rollout", "rendering", "nano"}
ALLOWED = {
    "types": set(),
    "errors": set(),
    "assets": {"errors"},
    "console": set(),
    "files": set(),
    "processes": set(),
    "cluster": {"errors"},
    "cpu_compat": set(),
    "cpu_site": {"cpu_compat"},
    "manifest": {"files"},
    "config": {"types", "errors"},
    "tasks": {"types", "errors"},
    "catalogue": {"types", "errors", "files"},
    "metrics": {"types", "errors"},
    "statistics": set(),
    "recbench": SCORING,
    "scoring": LEAVES | {"metrics", "catalogue"},
    "policy": LEAVES | {"config"},
    "prompts": RECORDS,
    "reward_mix": RECORDS,
    "rollout": RECORDS | {"policy"},
    "rendering": RECORDS | {"nano"},
    "nano": RECORDS | {"rendering", "scoring"},
    "training": MIDDLE,
    "evaluation": MIDDLE,
    "evaluate": MIDDLE | {"evaluation"},
    "complete": MIDDLE | {"evaluation", "evaluate"},
    "run": MIDDLE | {"training", "evaluation", "evaluate", "report"},
    "report": MIDDLE | {"training", "evaluation", "evaluate", "run"},
    "ablation": MIDDLE | {"evaluation", "report"},
    "rescoring": MIDDLE | {"evaluate"},
    "reward_bench": MIDDLE | {"rescoring"},
    "cli": MIDDLE
    | {"training", "evaluation", "evaluate", "complete", "run", "report", "ablation", "rescoring", "reward_bench"},
    "__main__": {"cli"},
}
REWARDS_MAY_IMPORT = {"types", "errors", "tasks", "metrics", "scoring", "catalogue", "rendering"}


def imported_parts(path: Path) -> set[str]:
    """First-level parts of ``grpo_mmpc`` that a file imports, wherever in the file the import stands."""
    names = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}: relative import")
    return {name.split(".")[1] for name in names if name.startswith("grpo_mmpc.")}


def files_of(part: str) -> list[Path]:
    folder = ROOT / "grpo_mmpc" / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def test_every_part_of_the_package_has_a_rule():
    parts = {p.stem for p in (ROOT / "grpo_mmpc").glob("*.py")} | {
        p.name for p in (ROOT / "grpo_mmpc").iterdir() if p.is_dir() and any(p.glob("*.py"))
    }
    assert parts - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_stands_below_it(part):
    for file in files_of(part):
        above = imported_parts(file) - ALLOWED[part] - {part, "__version__"}
        assert not above, f"{file.relative_to(ROOT)} imports {sorted(above)}"


def test_training_and_evaluation_do_not_know_each_other():
    assert "evaluation" not in ALLOWED["training"]
    assert "training" not in ALLOWED["evaluation"]


def test_rewards_use_only_scoring_and_below():
    for file in sorted((ROOT / "rewards").glob("*.py")):
        above = imported_parts(file) - REWARDS_MAY_IMPORT
        assert not above, f"{file.relative_to(ROOT)} imports {sorted(above)}"


def test_the_package_never_imports_the_rewards_by_name():
    for file in sorted((ROOT / "grpo_mmpc").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module or ""]
            assert not any(name.split(".")[0] == "rewards" for name in names), file
