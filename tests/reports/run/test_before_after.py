"""Key numbers: what a row says, and what shares a scale."""

import re

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.run.before_after import (
    NumbersTable,
    attribute_panel,
    category_panels,
    change_figure,
    key_numbers,
)


def cell(before: float, after: float, **changes: object) -> Cell:
    fields: dict[str, object] = {"before": before, "after": after, "delta": after - before, "corrected": None}
    fields |= {"interval": (after - before - 0.05, after - before + 0.05), "p": 0.0001, "p_holm": 0.0123, "n": 40}
    fields |= {"effect_size": 0.456, "n_scored": 40, "was_reward": False, "higher_is_better": True, "verdict": "better"}
    return Cell(**(fields | changes))  # type: ignore[arg-type]


def task(metrics: dict[str, Cell], categories: dict[str, dict[str, Cell]] | None = None) -> TaskComparison:
    return TaskComparison(
        task="text_to_image",
        n=40,
        before_only=0,
        after_only=0,
        held_back=0,
        families={},
        metrics=metrics,
        macro={},
        categories=categories or {},
    )


def table(metrics: dict[str, Cell]) -> NumbersTable:
    return key_numbers(task(metrics))


def ticks(figure: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", figure)


def test_axes_of_levels_keep_to_what_a_metric_can_be() -> None:
    nothing = {"attribute_recall_brand": cell(0.0, 0.0), "bleu": cell(0.0, 0.0), "embedding_cosine": cell(0.0, 0.0)}
    attributes = attribute_panel(task(nothing))
    (bleu, cosine), _ = category_panels(task(nothing, dict.fromkeys("ab", nothing)), lead="bleu", mode="corrected")
    assert attributes is not None
    assert ticks(attributes.levels_axis) == ticks(bleu.levels_axis) == ["0", "0.2", "0.4"]
    assert ticks(cosine.levels_axis) == ["\u22120.5", "0", "0.5"]  # from -1 to 1


def test_metrics_are_grouped_by_what_was_trained_on_and_those_without_a_score_are_named() -> None:
    unscored = cell(0.0, 0.0, n_scored=0)
    found = table({"ssim": cell(0.2, 0.4), "bleu": cell(0.1, 0.2, was_reward=True), "fid": unscored})
    assert {title: list(cells) for title, cells in found.groups.items()} == {
        "Trained on": ["bleu"],
        "Not trained on": ["ssim"],
    }
    assert found.unscored == ["FID"]


def test_metrics_in_other_units_do_not_squeeze_the_scale_of_the_others() -> None:
    ssim, psnr = cell(0.2, 0.4), cell(12.0, 19.0)
    alone, with_decibels = table({"ssim": ssim}), table({"ssim": ssim, "psnr": psnr})
    assert with_decibels.scale == alone.scale
    assert change_figure(psnr, alone.scale) == ""
    assert "<circle" in change_figure(ssim, alone.scale)
