"""Text of strangers' files on its way to the terminal: it moves no cursor and sets no title."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.cli import main
from grpo_mmpc.utils.console import LogHandler, Progress, printer
from tests.evaluation.test_run_comparison import evaluate

HOSTILE = "\x1b[2J\x1b[31mred\x07 \x9b31m"
ROOT = Path(__file__).parents[2]


def rescored(folder: Path, catalogue: Path) -> list[str]:
    """A run whose one group the same mix orders the other way round, so that it is shown."""
    item = load_catalogue(catalogue).items[0]
    run = folder / "run"
    (run / "rollouts").mkdir(parents=True)
    (run / "config.yaml").write_text(
        f"run_dir: {run}\nmodel: {{name_or_path: nano:qwen2_5_vl}}\nadapter: {{r: 4}}\n"
        f"data: {{catalogue: {catalogue}}}\nrewards: {{mix: [{{name: bleu, weight: 1.0}}]}}\n"
    )
    answers = [f"{HOSTILE} mug", item["title"]]
    table = {
        "step": [1, 1],
        "prompt_id": [HOSTILE] * 2,
        "item_id": [item["item_id"]] * 2,
        "category": [HOSTILE] * 2,
        "task": ["image_to_text"] * 2,
        "generation": [0, 1],
        "completion": [json.dumps({"title": answer}) for answer in answers],
        "prediction": answers,
        "format": ["json"] * 2,
        "reward/bleu": [1.0, 0.0],
        "advantage": [1.0, -1.0],
    }
    pq.write_table(pa.table(table), run / "rollouts" / "step-000001.parquet")
    return ["rescore", str(run)]


def scored(folder: Path, _: Path) -> list[str]:
    references = [{"item_id": "a", "reference": None, "category": HOSTILE}, {"item_id": "b", "reference": "a red mug"}]
    for name, rows in {
        "p.jsonl": [{"item_id": row["item_id"], "prediction": HOSTILE} for row in references],
        "r.jsonl": references,
    }.items():
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = ["--predictions", str(folder / "p.jsonl"), "--references", str(folder / "r.jsonl")]
    return ["score", "--mode", "paper", "--metrics", "bleu", *files]


def refused_key(folder: Path, _: Path) -> list[str]:
    (folder / "config.yaml").write_text(f"run_dir: x\nrewards: {{{json.dumps(HOSTILE)}: 1}}\n")
    return ["rescore", str(folder)]


def refused_base(folder: Path, _: Path) -> list[str]:
    adapter = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": HOSTILE}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return ["evaluate", str(ROOT / "recipes/nano.yaml"), f"model.name_or_path={folder}", "--base"]


def compared(folder: Path, _: Path) -> list[str]:
    """Two evaluations by a suite of that name."""
    found = []
    for name in ("base", "final"):
        suite = evaluate(folder / "run", name, 0.5)
        suite.rename(suite.with_name(HOSTILE))
        found.append(str(suite.parent))
    return ["compare", *found]


@pytest.mark.parametrize(
    ("command", "status"), [(rescored, 0), (scored, 0), (compared, 0), (refused_key, 2), (refused_base, 2)]
)
def test_no_control_character_of_a_strangers_file_reaches_the_terminal(
    command: Callable[[Path, Path], list[str]],
    status: int,
    tmp_path: Path,
    small_catalogue: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(tmp_path, small_catalogue)) == status
    out, err = capsys.readouterr()
    assert "[31mred" in out + err
    assert not {"\x1b", "\x07", "\x9b"} & {*out, *err}


def test_lines_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    printer(True)(f"first {HOSTILE}\n  second\x85third")
    record = logging.makeLogRecord({"msg": "category %s", "args": (HOSTILE,)})
    assert LogHandler().format(record) == "category  [2J [31mred   31m"
    assert capsys.readouterr().out == "first  [2J [31mred   31m\n  second third\n"


def test_names_of_work_and_details_of_a_progress_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(every_seconds=0.05) as progress:
        progress(HOSTILE, 0, detail=HOSTILE)
        time.sleep(0.1)
    assert capsys.readouterr().err == " [2J [31mred   31m:  [2J [31mred   31m\n"
