"""The preview of rewards as a page and as files."""

import csv
import json
from dataclasses import replace
from pathlib import Path

from grpo_mmpc.analysis.reward_bench.candidates import KINDS
from grpo_mmpc.analysis.reward_bench.findings import findings
from grpo_mmpc.analysis.reward_bench.results import Preview, RewardResult, Separation, TaskResult, Timing
from grpo_mmpc.reports.reward_bench.page import render, write_files
from tests.reports.golden import check_golden, visible_text

TASK = "image_to_text"


def result(wins: dict[str, float], *, earned: float = 0.25) -> TaskResult:
    """A reward against which the true answer wins always, except as ``wins`` says."""
    kinds = {kind: Separation(n=40, mean=0.5, auc=1.0, wins=wins.get(kind, 1.0), earned=earned) for kind in KINDS}
    kinds["gold"] = Separation(n=40, mean=1.0, auc=None, wins=None, earned=1.0)
    return TaskResult(kinds=kinds, lowest=0.0, highest=1.0, unscored_share=0.125)


def reward(name: str, wins: dict[str, float], *, weight: float | None = None) -> RewardResult:
    return RewardResult(
        name=name,
        weight=weight,
        tasks={TASK: result(wins)},
        value_range=(0.0, 1.0),
        timing=Timing(cold=12.34, warm=0.56, loading=100.0),
        deterministic=True,
    )


def preview() -> Preview:
    mix = RewardResult(
        name="mix",
        weight=None,
        tasks={TASK: result({}, earned=-0.25)},
        value_range=None,
        timing=None,
        deterministic=None,
    )
    silent = RewardResult(
        name="broken", weight=0.5, tasks={}, value_range=None, timing=None, deterministic=None, problem="needs <gpu>"
    )
    return Preview(
        catalogue="<shop>",
        items=40,
        seed=0,
        command="grpo-mmpc rewards preview --catalogue shop",
        rewards=[
            reward("bleu", {"word_shuffled": 0.999}, weight=0.3),
            reward("clip", {"word_shuffled": 0.5, "over_long": 0.25}, weight=0.2),
            silent,
            mix,
        ],
        examples={TASK: {kind: f"an answer of the kind {kind} " * 8 for kind in KINDS if kind != "empty"}},
    )


def test_golden_page() -> None:
    check_golden("reward_bench", visible_text(render(preview())))


def test_a_reward_that_is_fooled_is_named_with_what_fools_it_and_the_mix_comes_first() -> None:
    said = findings(preview(), TASK)
    assert [finding.tone for finding in said] == ["better", "worse"]
    assert said[0].text.startswith("bleu and mix prefer the true answer")
    assert "clip cannot tell the true answer from word shuffled and over long" in said[1].text


def test_a_reward_that_takes_the_title_of_another_product_for_the_true_one_is_said_so() -> None:
    blind = reward("clip", {"same_category": 0.5, "other_category": 0.55, "over_long": 0.2})
    near = reward("form", {"same_category": 0.5})
    shown = replace(preview(), rewards=[reward("bleu", {}), blind, near])
    assert [finding.text for finding in findings(shown, TASK)] == [
        "clip cannot tell your titles apart: that of another product scores as well.",
        "form tells your categories apart, but not the titles within one.",
        "bleu prefers the true answer to every kind of wrong one, in at least 60% of items.",
    ]


def test_a_single_exception_does_not_read_as_always_and_names_are_escaped() -> None:
    page = render(preview())
    assert ">.99</td>" in page  # rounded down
    assert "<shop>" not in page and "&lt;gpu&gt;" in page


def test_all_files_are_written(tmp_path: Path) -> None:
    paths = write_files(preview(), tmp_path / "new")
    assert [path.name for path in paths] == ["preview.json", "preview.csv", "preview.html"]
    assert json.loads(paths[0].read_text())["items"] == 40
    rows = list(csv.DictReader(paths[1].open()))
    assert len(rows) == 3 * len(KINDS)
    assert rows[0] == {
        **{"task": TASK, "reward": "bleu", "kind": "gold", "n": "40", "mean": "1"},
        **{"auc": "", "wins": "", "earned": "1"},
    }


def test_a_reward_that_scored_nothing_is_not_called_firm() -> None:
    silent = TaskResult(
        kinds={kind: Separation(n=0, mean=None, auc=None, wins=None, earned=None) for kind in KINDS},
        lowest=None,
        highest=None,
        unscored_share=1.0,
    )
    shown = replace(preview(), rewards=[replace(reward("mute", {}), tasks={TASK: silent})])
    assert [finding.kind for finding in findings(shown, TASK)] == ["no verdict"]
    assert "No reward could score" in render(shown)
