"""``comparison.json``: its exact content, and that records and file say the same."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.evaluation.comparison import write_comparison
from grpo_mmpc.evaluation.records import Comparison

GOLDEN = Path(__file__).with_name("golden_comparison.json")
ITEMS = 8 * ["Toys"] + 7 * ["Office"] + 3 * ["Few"]
BEST = {
    **{"checkpoint": "checkpoint-10", "metric": "image_to_text.bleu", "values": {"checkpoint-10": 0.5}},
    **{"num_items": 2, "items": 0.2},
}


def build_run(run: Path) -> Path:
    """A run of 18 items: corpus-level, set and unscored metrics, a control, a best checkpoint."""
    generator = np.random.default_rng(7)
    count = len(ITEMS)
    for number, name in enumerate(("base", "checkpoint-10", "control-raw_title")):
        tasks = ["text_to_image"] if name.startswith("control") else ["image_to_text", "text_to_image"]
        tables, summaries = [], {}
        for task in tasks:
            scores = {metric: generator.random(count) * 0.5 + 0.2 * number for metric in ("bleu", "chrf", "parse_rate")}
            if task == "text_to_image":
                scores = {"clip_image_image": scores["bleu"], "mse": scores["chrf"], "lpips": np.full(count, math.nan)}
            scores[next(iter(scores))][4] = math.nan
            columns = {
                "item_id": [f"item-{i}" for i in range(count)],
                "category": ITEMS,
                "task": [task] * count,
                **{f"score/{metric}": pa.array(values) for metric, values in scores.items()},
            }
            if task == "image_to_text":
                # Hits and tries of four orders of n-grams, and two lengths.
                statistics = generator.integers(1, 9, (count, 10)).astype(float)
                columns["stat/corpus_bleu"] = pa.array(statistics.tolist(), pa.list_(pa.float64()))
            fid = {"mean": None if name == "base" else 20.0 - number, "n": count, "n_scored": count}
            own = [*scores, "corpus_bleu" if task == "image_to_text" else "parse_rate"]
            cells = {metric: {"mean": 0.5, "n": count, "n_scored": count} for metric in own}
            if task == "text_to_image":
                cells["fid"] = fid
            summaries[task] = {
                "metrics": cells,
                "categories": {category: {"fid": {"mean": 30.0 - number}} for category in dict.fromkeys(ITEMS)},
            }
            tables.append(pa.table(columns))
        folder = run / "evaluations" / name / "cqbench"
        folder.mkdir(parents=True)
        pq.write_table(pa.concat_tables(tables, promote_options="default"), folder / "samples.parquet")
        summary = {"suite": "cqbench", "version": 2, "mode": "corrected", "policy": name, "settings": {"encoders": {}}}
        (folder / "summary.json").write_text(json.dumps(summary | {"tasks": summaries}))
    clip = "{name: clip_similarity, weight: 1, tasks: [text_to_image]}"
    mix = f"[{{name: bleu, weight: 0.5}}, {{name: chrf, weight: 0}}, {clip}]"
    (run / "config.yaml").write_text(f"tasks: [image_to_text, text_to_image]\nrewards: {{mix: {mix}}}\n")
    (run / "best.json").write_text(json.dumps(BEST))
    return run


def test_the_comparison_of_a_run_is_the_golden_file_to_the_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the file names its folders
    written = write_comparison(build_run(Path("run")), resamples=300)
    assert written.read_text() == GOLDEN.read_text()


def test_records_and_file_say_the_same() -> None:
    content = json.loads(GOLDEN.read_text())
    comparison = Comparison.from_json(content)
    assert comparison.to_json() == content
    assert Comparison.from_json(comparison.to_json()) == comparison
    words = {cell.verdict for task in comparison.tasks for cell in task.metrics.values()}
    assert words >= {"no evidence", "unscored"}
    assert (comparison.best is not None, list(comparison.controls)) == (True, ["raw_title"])
