"""Key numbers: what a row says, and what shares a scale."""

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.run.before_after import NumbersTable, key_numbers


def cell(before: float, after: float, **changes: object) -> Cell:
    fields: dict[str, object] = {"before": before, "after": after, "delta": after - before, "corrected": None}
    fields |= {"interval": (after - before - 0.05, after - before + 0.05), "p": 0.0001, "p_holm": 0.0123, "n": 40}
    fields |= {"effect_size": 0.456, "n_scored": 40, "was_reward": False, "higher_is_better": True, "verdict": "better"}
    return Cell(**(fields | changes))  # type: ignore[arg-type]


def table(metrics: dict[str, Cell]) -> NumbersTable:
    return key_numbers(
        TaskComparison(
            task="text_to_image",
            n=40,
            before_only=0,
            after_only=0,
            held_back=0,
            families={},
            metrics=metrics,
            macro={},
            categories={},
        )
    )


def test_a_row_gives_the_corrected_p_value_and_the_effect_size() -> None:
    rows = table({"ssim": cell(0.2, 0.4), "fid": cell(30, 24, interval=None, p=None, p_holm=None, effect_size=None)})
    ssim, fid = rows.untrained
    assert (ssim.difference.p_text, ssim.cell.effect_size, ssim.difference.verdict) == ("0.012", 0.456, "better")
    assert fid.difference.p_text == "–"  # noqa: RUF001
    assert table({"ssim": cell(0.2, 0.4, p_holm=0.0004)}).untrained[0].difference.p_text == "<0.001"


def test_metrics_in_other_units_do_not_squeeze_the_scale_of_the_others() -> None:
    alone, with_decibels = table({"ssim": cell(0.2, 0.4)}), table({"ssim": cell(0.2, 0.4), "psnr": cell(12.0, 19.0)})
    assert with_decibels.axis == alone.axis
    ssim, psnr = with_decibels.untrained
    assert ssim.figure == alone.untrained[0].figure
    assert (psnr.figure, psnr.difference.change) == ("", "+7.000")
