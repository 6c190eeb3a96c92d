"""The worked example of docs/grpo.md, computed from its own table."""

import re
from pathlib import Path

import pytest
import yaml

from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.rewards import advantages, neutral

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "grpo.md"
PUBLISHED = dict(re.findall(r"^\| ([\w. ]+) \(\[.*\| `(.*)` \|$", PAGE.read_text("utf-8"), re.MULTILINE))
WEIGHTS = {"overlap": 0.6, "image": 0.4}
COLUMNS = [("sum_then_normalize", "group"), ("sum_then_normalize", "batch"), ("sum_then_normalize", "none")]
COLUMNS += [("normalize_then_sum", "group")]


def rows() -> list[list[str]]:
    lines = PAGE.read_text("utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if re.match(r"\| [pq]\d \|", line)]


GROUPS = [cells[0][0] for cells in rows()]
RAW = {
    name: [None if cells[i].startswith("-") else float(cells[i]) for cells in rows()]
    for i, name in enumerate(WEIGHTS, start=1)
}


def handed_to_trl(aggregation: str = "sum_then_normalize") -> dict[str, list[float | None]]:
    return neutral(RAW, GROUPS, trained=list(WEIGHTS), aggregation=aggregation)


def test_none_is_replaced_as_the_brackets_say():
    for i, name in enumerate(WEIGHTS, start=1):
        said = [
            float(m[1]) if (m := re.match(r"- \((.*)\)", c[i])) else v for c, v in zip(rows(), RAW[name], strict=True)
        ]
        assert handed_to_trl()[name] == pytest.approx(said, nan_ok=True)


@pytest.mark.parametrize(("column", "formula"), enumerate(COLUMNS, start=3), ids=[" ".join(f) for f in COLUMNS])
def test_advantages_are_those_of_the_table(column, formula):
    aggregation, scale = formula
    values = advantages(
        handed_to_trl(aggregation), WEIGHTS, groups=GROUPS, aggregation=aggregation, scale_rewards=scale
    )
    assert values == pytest.approx([float(cells[column]) for cells in rows()], abs=5e-4)


def test_none_as_zero_would_punish_as_the_text_says():
    as_zero = {name: [0.0 if v is None else v for v in values[:4]] for name, values in RAW.items()}
    values = advantages(as_zero, WEIGHTS, groups=["p"] * 4, aggregation="sum_then_normalize", scale_rewards="none")
    assert values == pytest.approx([-0.01, -0.09, 0.31, -0.21])


def test_what_is_unscored_leaves_the_scores_of_the_others_as_they_are_under_normalize_then_sum():
    """Of eight, five are scored: their z-scores are those of a group of five, and 0 for the others.

    Mean .3 and deviation .158 of .1 to .5; with three more at the mean it would be .119, and every
    z-score 1.3 times as large.
    """
    raw = {"overlap": [0.1, 0.2, 0.3, 0.4, 0.5, None, None, None], "image": [0.0] * 8}
    weights, groups = {"overlap": 1.0, "image": 1.0}, ["p"] * 8
    values = neutral(raw, groups, trained=list(weights), aggregation="normalize_then_sum")
    assert values == raw
    z = [(value - 0.3) / (0.025**0.5 + 1e-4) for value in raw["overlap"][:5]] + [0.0] * 3
    spread = (sum(one * one for one in z) / 7) ** 0.5 + 1e-4
    expected = [one / spread for one in z]
    assert advantages(values, weights, groups=groups, aggregation="normalize_then_sum") == pytest.approx(expected)


@pytest.mark.parametrize("name", ["GRPO", "Dr. GRPO", "DAPO", "GSPO", "CISPO", "SAPO", "GDPO"])
def test_the_options_of_a_published_name_pass_every_check_and_reach_trl(name, monkeypatch):
    from trl import GRPOConfig

    monkeypatch.chdir(ROOT)
    options = PUBLISHED[name].split()
    config = load_recipe(["recipes/nano.yaml", *options])
    values = {key: yaml.safe_load(value) for key, value in (option.split("=") for option in options)}
    dumped = config.model_dump()
    for key, value in values.items():
        section, _, field = key.partition(".")
        assert dumped[section][field] == (float(value) if key.startswith("trainer.epsilon") else value)
    built = GRPOConfig(output_dir="unused", report_to="none", **config.trainer)
    assert built.loss_type == values.get("trainer.loss_type", "dapo")
    assert built.importance_sampling_level == ("sequence" if name == "GSPO" else "token")


def test_the_ablation_of_losses_runs_the_page_s_options():
    axis = yaml.safe_load((ROOT / "recipes/ablations/nano_loss_types.yaml").read_text("utf-8"))["axes"]["loss"]
    assert axis.pop("default") == {}
    said = {re.sub(r"\W+", "_", name.lower()): options.split() for name, options in PUBLISHED.items()}
    del said["gdpo"]  # a matter of the mix, in the ablation of mixes
    assert axis == {
        name: {"set": {key: yaml.load(value, yaml.SafeLoader) for key, value in map(_pair, options)}}
        for name, options in said.items()
    }


def _pair(option):
    key, _, value = option.partition("=")
    return key, re.sub(r"^(\d)e", r"\1.0e", value)  # YAML 1.1 takes a number without a dot for text
