"""``recipes/preview/nano.yaml``: what the documentation's preview looks at."""

import re
import shlex
from pathlib import Path

import yaml

from grpo_mmpc.cli import build_parser
from grpo_mmpc.rewards import registered_rewards

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "recipes/preview/nano.yaml"


def mix(path: Path) -> dict[str, dict]:
    return {spec["name"]: spec for spec in yaml.safe_load(path.read_text("utf-8"))["rewards"]["mix"]}


def test_it_names_every_installed_reward_once():
    needs_a_server = {"llm_judge"}  # recipes/preview/llm_judge.yaml
    assert sorted(mix(RECIPE)) == sorted({*registered_rewards()} - needs_a_server)


def test_the_page_says_of_every_installed_reward_where_it_is():
    page = (ROOT / "docs/reward_bench.md").read_text("utf-8")
    of_tables = {*re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)}
    (count,) = re.findall(r"`dinov2_similarity` is\nmissing.*?\. The (\d+) rewards below", page, flags=re.DOTALL)
    assert len(of_tables) == int(count)
    assert all(f"`{name}`" in page for name in registered_rewards())


def test_it_weighs_what_the_nano_recipe_weighs_with_the_same_encoders():
    shown, trained = mix(RECIPE), mix(ROOT / "recipes/nano.yaml")
    assert {name for name, spec in shown.items() if spec["weight"]} == {
        name for name, spec in trained.items() if spec["weight"]
    }
    for name, spec in trained.items():
        assert shown[name].get("kwargs", {}).items() <= spec.get("kwargs", {}).items(), name


def test_the_command_of_its_header_parses_and_names_this_file():
    (line,) = [line for line in RECIPE.read_text("utf-8").splitlines() if "grpo-mmpc" in line]
    arguments = build_parser().parse_args(shlex.split(line.lstrip("# "))[1:])
    assert arguments.mix == [str(RECIPE.relative_to(ROOT))]
