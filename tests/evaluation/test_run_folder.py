"""The reader of a run folder: the order of its files, broken ones, and that it runs nothing."""

import json
from pathlib import Path

import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.run_folder import MixEntry, RunFolder, checkpoint_order


def write(path: Path, content: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_an_empty_folder_reads_as_empty_and_every_missing_file_is_noted_once(tmp_path: Path) -> None:
    for run in (RunFolder(tmp_path), noted := RunFolder(tmp_path, notes=(notes := []))):
        assert (run.config, run.mix, run.manifest, run.steps, run.evaluations, run.rollout_files) == (
            {},
            [],
            {},
            [],
            {},
            [],
        )
        assert (run.comparison, run.best, run.reported, run.suite) == (None, None, None, "cqbench")
        assert run.trained_rewards() == {}
    missing = [note.partition(" is missing")[0] for note in notes if "is missing" in note]
    assert sorted(missing) == ["comparison.json", "config.yaml", "manifest.json", "metrics.jsonl"]
    assert noted.summary("final") == {}


@pytest.mark.parametrize(
    ("name", "content", "attribute", "said"),
    [
        ("config.yaml", "a: [", "config", "config.yaml: not valid YAML"),
        ("config.yaml", "rewards: {mix: [bleu]}", "mix", "expected rewards.mix, a list of name and weight"),
        ("manifest.json", "[]", "manifest", "manifest.json holds a list, expected an object"),
        ("comparison.json", '{"before": "base"}', "comparison", "comparison.json is not a comparison"),
        ("best.json", '{"checkpoint": 1}', "best", "remove it to report the last checkpoint"),
    ],
)
def test_a_broken_file_is_an_error_unless_somebody_takes_notes(
    tmp_path: Path, name: str, content: str, attribute: str, said: str
) -> None:
    write(tmp_path / name, content)
    with pytest.raises(EvaluationError, match=said):
        getattr(RunFolder(tmp_path), attribute)
    notes: list[str] = []
    assert not getattr(RunFolder(tmp_path, notes=notes), attribute)
    assert [note for note in notes if said in note]


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "metrics.jsonl", "comparison.json", "best.json"])
@pytest.mark.parametrize("target", ["/dev/zero", "elsewhere"])
def test_a_file_that_leads_out_of_the_run_folder_is_not_read(tmp_path: Path, name: str, target: str) -> None:
    write(tmp_path / "elsewhere", '{"step": 1, "token": "secret"}\n')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / target if target == "elsewhere" else target)
    notes: list[str] = []
    run = RunFolder(tmp_path / "run", notes=notes)
    read = [run.config_text, run.manifest, run.steps, run.comparison, run.best]
    assert not any(read)
    assert [note for note in notes if name in note and "which is no file of" in note]


def test_nothing_in_a_run_folder_is_executed(tmp_path: Path) -> None:
    write(tmp_path / "config.yaml", f"run_dir: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'run'}]\n")
    write(tmp_path / "own.py", f"open({str(tmp_path / 'run')!r}, 'w')")
    assert RunFolder(tmp_path, notes=[]).config == {}
    write(tmp_path / "config.yaml", f"rewards: {{mix: [{{name: '{tmp_path / 'own.py'}:brand', weight: 1}}]}}")
    assert RunFolder(tmp_path).mix == [MixEntry(name=f"{tmp_path / 'own.py'}:brand", weight=1.0, tasks=None)]
    assert not (tmp_path / "run").exists()


def test_evaluations_come_in_the_order_of_training_and_the_last_or_best_one_is_reported(tmp_path: Path) -> None:
    for name in ("final", "checkpoint-100", "checkpoint-20", "base", "control-raw_title"):
        write(tmp_path / "evaluations" / name / "cqbench" / "summary.json", json.dumps({"checkpoint": name}))
    write(tmp_path / "evaluations" / "checkpoint-300" / "cqbench" / "samples.parquet")  # not finished
    run = RunFolder(tmp_path)
    assert list(run.evaluations) == ["control-raw_title", "base", "checkpoint-20", "checkpoint-100", "final"]
    assert run.summaries["checkpoint-20"] == {"checkpoint": "checkpoint-20"}
    assert run.reported == "final"
    best = {"checkpoint": "checkpoint-20", "metric": "x.y", "values": {}, "num_items": 2, "items": 0.5}
    write(tmp_path / "best.json", json.dumps(best))
    assert RunFolder(tmp_path).reported == "checkpoint-20"
    of_evaluation = RunFolder.of_evaluation(tmp_path / "evaluations" / "base" / "cqbench")
    assert of_evaluation is not None
    assert of_evaluation.path == tmp_path.resolve()
    assert RunFolder.of_evaluation(tmp_path / "elsewhere" / "base" / "cqbench") is None


def test_rollouts_come_in_the_order_in_which_they_were_sampled(tmp_path: Path) -> None:
    for name in ("step-10.parquet", "step-2-2.parquet", "step-2.parquet", "step-2-10.parquet", ".step-3.part"):
        write(tmp_path / "rollouts" / name)
    files = [path.stem for path in RunFolder(tmp_path).rollout_files]
    assert files == ["step-2", "step-2-2", "step-2-10", "step-10"]


def test_checkpoints_sort_by_step_between_base_and_final() -> None:
    names = ["final", "checkpoint-100", "checkpoint-20", "base"]
    assert sorted(names, key=checkpoint_order) == ["base", "checkpoint-20", "checkpoint-100", "final"]
