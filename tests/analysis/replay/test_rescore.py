"""Saved rollouts of a real, tiny run under other mixes: results, files and refusals."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.cli import main
from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.recorded import load_recorded
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.rewards.columns import RowReader
from grpo_mmpc.tasks import TASKS

OWN = Path(__file__).with_name("own_rewards.py")
MIX = [
    {"name": "bleu", "weight": 0.5},
    {"name": "token_f1", "weight": 0.5},
    {"name": "json_format", "weight": 0.1},
    {"name": f"{OWN}:letters", "weight": 0.0},
]

KNOWN = ["--trust", f"{OWN}:letters"]
"""The user's word for the code that his own run names."""


@pytest.fixture(scope="module")
def recorded(small_catalogue, tmp_path_factory) -> Path:
    """A run of three steps with four groups of four completions each."""
    from grpo_mmpc.training.session import TrainingSession

    run = tmp_path_factory.mktemp("rescore") / "run"
    config = RunConfig.model_validate(
        {
            "run_dir": str(run),
            "model": {"name_or_path": "nano:qwen2_5_vl", "init_kwargs": {"dtype": "float32"}},
            "adapter": {"r": 2, "lora_alpha": 4, "target_modules": r".*language_model.*\.(q|v)_proj"},
            "data": {"catalogue": str(small_catalogue), "held_out": 0.2},
            "rewards": {"mix": MIX},
            "trainer": {
                "per_device_train_batch_size": 16,
                "num_generations": 4,
                "max_steps": 3,
                "max_completion_length": 40,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_strategy": "no",
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
            },
        }
    )
    data = RunData(config)
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    session = TrainingSession(config, data)
    session.train(before=None, after_save=None)
    manifest = {"data": {"fingerprint": data.catalogue.fingerprint}}
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run


@pytest.fixture
def run(recorded, tmp_path) -> Path:
    return shutil.copytree(recorded, tmp_path / "run")


@pytest.fixture
def mix(tmp_path):
    """A function that writes a file with a mix."""

    def write(name: str = "other", aggregation: str = "sum_then_normalize", **weights: float) -> str:
        path = tmp_path / f"{name}.yaml"
        own = ("letters", "same_for_all", "sees_everything", "knows_the_corpus")
        specs = [{"name": f"{OWN}:{key}" if key in own else key, "weight": weight} for key, weight in weights.items()]
        path.write_text(yaml.safe_dump({"rewards": {"aggregation": aggregation, "mix": specs}}))
        return str(path)

    return write


def rows_of(folder: Path) -> list[dict]:
    return pq.read_table(folder / "rollouts.parquet").to_pylist()


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text("utf-8"))


def change_items(folder: Path, change) -> None:
    """Rewrite the items of a catalogue; those that become None leave it."""
    file = folder / "items.jsonl"
    items = [change(json.loads(line)) for line in file.read_text("utf-8").splitlines()]
    file.write_text("".join(f"{json.dumps(item)}\n" for item in items if item is not None), "utf-8")


def test_the_runs_own_mix_gives_its_own_rewards_and_advantages_again(run, capsys):
    assert main(["rescore", str(run), *KNOWN]) == 0
    rows = rows_of(run / "rescored/own")
    assert len(rows) == 48
    assert max(abs(row["advantage"]) for row in rows) > 0.5
    for row in rows:
        assert row["advantage"] == pytest.approx(row["old_advantage"], abs=1e-5)
        for name in ("bleu", "token_f1", "json_format", "letters"):
            assert row[f"reward/{name}"] == pytest.approx(row[f"old_reward/{name}"], abs=1e-9)
    summary = summary_of(run / "rescored/own")
    assert summary["total"]["rank_correlation"] == pytest.approx(1.0, abs=1e-6)
    assert summary["total"]["rank_correlation_in_group"] == pytest.approx(1.0, abs=1e-6)
    assert summary["total"]["winner_changes"] == summary["total"]["sign_changes"] == 0.0
    assert summary["total"]["old_dead"] == summary["total"]["new_dead"]
    assert summary["advantage_share"]["old"] == summary["advantage_share"]["new"]
    said = capsys.readouterr().out
    assert "- This is the run's own mix: everything above should agree with itself." in said
    assert "own rewards recomputed equal: yes (bleu, token_f1, json_format, letters)" in said
    assert "own advantages recomputed equal: yes" in said


def test_the_new_advantages_are_those_of_the_formula(run, mix):
    assert main(["rescore", str(run), "--mix", mix(letters=1.0, json_format=0.5), "--out", str(run / "out")]) == 0
    rows = rows_of(run / "out")
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        totals = [row["reward/letters"] + 0.5 * row["reward/json_format"] for row in group]
        mean = sum(totals) / 4
        std = (sum((total - mean) ** 2 for total in totals) / 3) ** 0.5
        for row, total in zip(group, totals, strict=True):
            assert row["advantage"] == pytest.approx((total - mean) / (std + 1e-4))
            # The same number by another way: the monitor of the run counted letters as well.
            assert row["reward/letters"] == row["old_reward/letters"]


def test_completions_that_would_have_won_are_shown_with_both_advantages(run, mix, capsys):
    assert main(["rescore", str(run), "--mix", mix(letters=1.0)]) == 0
    folder = run / "rescored/other"
    summary, rows = summary_of(folder), rows_of(folder)
    assert summary["total"]["winner_changes"] > 0
    for example in summary["examples"]:
        group = [row for row in rows if (row["prompt_id"], row["step"]) == (example["prompt_id"], example["step"])]
        best = max(group, key=lambda row: row["advantage"])
        assert example["new_winner"]["rewards"]["letters"] == best["reward/letters"]
        assert example["old_winner"]["old_advantage"] == max(row["old_advantage"] for row in group)
    said = capsys.readouterr().out
    assert "completions that would have won instead" in said
    assert summary["examples"][0]["title"].split()[0] in said
    assert f"next: grpo-mmpc train {run / 'config.yaml'}" in said


def test_a_mix_that_gives_all_completions_one_reward_is_called_dead(run, mix, capsys):
    assert main(["rescore", str(run), "--mix", mix(same_for_all=1.0)]) == 0
    summary = summary_of(run / "rescored/other")
    assert summary["signal"] == "dead"
    assert summary["total"]["new_dead"] == 1.0
    assert {row["advantage"] for row in rows_of(run / "rescored/other")} == {0.0}
    assert "The signal is dead: 100 % of the groups would have zero variance" in capsys.readouterr().out


def test_rewards_get_the_columns_and_the_corpus_that_training_gives_them(run, mix, small_catalogue):
    assert main(["rescore", str(run), "--mix", mix(sees_everything=1.0, knows_the_corpus=0.1)]) == 0
    rows = [row for row in rows_of(run / "rescored/other") if row["prediction"] is not None]
    config = RunConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    assert {row["reward/sees_everything"] for row in rows} == {1.0}
    assert {row["reward/knows_the_corpus"] for row in rows} == {float(len(RunData(config).train))}


@pytest.mark.parametrize("task", ["image_to_text", "text_to_image"])
def test_columns_are_those_of_the_training_data_set(small_catalogue, task):
    from grpo_mmpc.training.dataset import training_dataset

    catalogue = load_catalogue(small_catalogue, check_images=False)
    config: Any = SimpleNamespace(tasks=[task], known_tasks=TASKS, data=SimpleNamespace(salt="", max_train_items=None))
    data: Any = SimpleNamespace(catalogue=catalogue, train=range(5))
    expected = training_dataset(config, data)[:]
    found = RowReader(catalogue).of(expected["item_id"], expected["task"])
    assert found.pop("prompts") == expected.pop("prompt")
    del expected["images"], expected["set_aside"]  # never handed to rewards
    assert found == expected


def test_rollouts_that_lack_a_reward_of_the_run_are_refused(run, capsys):
    file = RunFolder(run).rollout_files[0]
    pq.write_table(pq.read_table(file).drop_columns(["reward/bleu"]), file)
    said = error([str(run)], capsys)
    assert f"{file} holds no reward/bleu, which config.yaml names: the recorded rollouts do not match" in said


def test_overrides_change_a_weight_of_the_runs_own_mix(run):
    assert main(["rescore", str(run), *KNOWN, "--mix", "rewards.mix.0.weight=0.0"]) == 0
    summary = summary_of(run / "rescored/rewards.mix.0.weight=0.0")
    assert summary["new"]["weights"]["bleu"] == 0.0
    assert set(summary["advantage_share"]["new"]) == {"token_f1", "json_format"}


def test_items_that_left_the_catalogue_are_counted_and_their_rows_kept(run, small_catalogue, tmp_path, capsys):
    files = RunFolder(run).rollout_files
    lost = pq.read_table(files[0])["item_id"][0].as_py()
    folder = shutil.copytree(small_catalogue, tmp_path / "catalogue")
    change_items(folder, lambda item: None if item["item_id"] == lost else item)
    assert main(["rescore", str(run), *KNOWN, "--mix", f"data.catalogue={folder}", "--out", str(tmp_path / "out")]) == 0
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 48
    gone = [row for row in rows if row["item_id"] == lost]
    assert gone and all(row["advantage"] is None and row["reward/bleu"] is None for row in gone)
    assert summary_of(tmp_path / "out")["items_gone"] == {lost: len(gone)}
    assert summary_of(tmp_path / "out")["total"]["completions"] == 48 - len(gone)
    said = capsys.readouterr().out
    assert f"left out: {len(gone)} completions of 1 item that" in said
    assert "the catalogue has changed since the run" in said


def test_completions_of_tasks_that_the_new_recipe_does_not_train_are_in_no_number(run, tmp_path, capsys):
    """A mix that names its tasks, as README's does, is judged by what it would train."""
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"tasks": ["image_to_text", "text_to_image"]}), "utf-8")
    files = RunFolder(run).rollout_files  # three batches of 16 completions in 4 groups
    for file, others in zip(files, (16, 4, 0), strict=True):
        table = pq.read_table(file)
        position = table.column_names.index("task")
        tasks = ["text_to_image"] * others + ["image_to_text"] * (16 - others)
        pq.write_table(table.set_column(position, "task", [tasks]), file)
    file = tmp_path / "titles.yaml"
    mix = [{"name": "token_f1", "weight": 1.0, "tasks": ["image_to_text"]}]
    file.write_text(yaml.safe_dump({"tasks": ["image_to_text"], "rewards": {"mix": mix}}), "utf-8")
    assert main(["rescore", str(run), "--mix", str(file)]) == 0
    total, rows = summary_of(run / "rescored/titles")["total"], rows_of(run / "rescored/titles")
    assert (total["completions"], total["groups"]) == (28, 7)
    assert summary_of(run / "rescored/titles")["tasks_untrained"] == {"text_to_image": 20}
    left_out = [row for row in rows if row["task"] == "text_to_image"]
    assert len(rows) == 48 and len(left_out) == 20
    assert all(row["advantage"] is None and row["reward/token_f1"] is None for row in left_out)
    said = capsys.readouterr().out
    assert "! left out: 20 completions of text_to_image, which the new recipe does not train" in said
    for path in files[1:]:
        path.unlink()
    assert main(["rescore", str(run), "--mix", str(file)]) == 2
    said = capsys.readouterr().err
    assert "are of text_to_image and the new recipe trains image_to_text: there is nothing to score" in said


def test_recorded_rewards_that_come_out_differently_are_named(run, capsys):
    file = RunFolder(run).rollout_files[0]
    table = pq.read_table(file)
    position = table.column_names.index("reward/letters")
    values = [value + 1 for value in table["reward/letters"].to_pylist()]
    pq.write_table(table.set_column(position, "reward/letters", [values]), file)
    assert main(["rescore", str(run), *KNOWN]) == 0
    assert "! own rewards recomputed equal: no: letters (up to 1.0e+00)" in capsys.readouterr().out


def test_files_are_taken_in_the_order_of_steps_and_batches(tmp_path):
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "config.yaml").touch()
    names = ["step-000001.parquet", "step-000001-2.parquet", "step-000001-10.parquet", "step-000002.parquet"]
    for name in [*reversed(names), "notes.parquet"]:
        (tmp_path / "rollouts" / name).touch()
    assert [file.name for file in RunFolder(tmp_path).rollout_files] == names


def test_rewards_of_the_old_mix_are_not_built_to_score_another(run, mix, tmp_path, capsys):
    """The file of a reward may be gone, or its encoder: what it said was recorded."""
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    for spec in config["rewards"]["mix"]:
        spec["name"] = spec["name"].replace(str(OWN), str(tmp_path / "gone.py"))
    (run / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    assert main(["rescore", str(run), "--mix", mix(same_for_all=0.1, json_format=1.0)]) == 0
    said = capsys.readouterr().out
    assert "own rewards recomputed equal: yes (json_format)" in said
    assert "own advantages recomputed equal: yes" in said
    assert {"old_reward/letters", "reward/same_for_all"} <= set(rows_of(run / "rescored/other")[0])
    trusted = ["--trust", f"{tmp_path / 'gone.py'}:letters"]
    assert "no such file" in error([str(run), *trusted], capsys)  # the whole mix again cannot do without it


def error(words: list[str], capsys) -> str:
    assert main(["rescore", *words, *KNOWN]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_replayed_is_refused_with_the_remedy(run, mix, tmp_path, capsys):
    assert "holds no config.yaml" in error([str(tmp_path)], capsys)
    said = error([str(run), "--mix", f"data.catalogue={tmp_path / 'nowhere'}"], capsys)
    assert f"catalogue folder {tmp_path / 'nowhere'} does not exist" in said
    said = error([str(run), "--mix", mix(blue=1.0)], capsys)
    assert "unknown reward 'blue'; did you mean 'bleu'?" in said
    assert "no such file" in error([str(run), "--mix", "nowhere.yaml"], capsys)
    file = RunFolder(run).rollout_files[1]
    file.write_bytes(b"PAR1 cut off")
    assert f"{file} cannot be read as Parquet" in error([str(run)], capsys)
    shutil.rmtree(run / "rollouts")
    assert "holds no step-*.parquet" in error([str(run)], capsys)
    assert not list(run.glob("rescored/*/rollouts.parquet*"))


def test_a_catalogue_without_any_of_the_items_is_refused(run, small_catalogue, tmp_path, capsys):
    folder = shutil.copytree(small_catalogue, tmp_path / "catalogue")
    change_items(folder, lambda item: {**item, "item_id": f"other-{item['item_id']}"})
    said = error([str(run), "--mix", f"data.catalogue={folder}"], capsys)
    assert f"is in {folder} with title and image; name the catalogue that the run was made with" in said


def test_code_that_a_run_folder_names_is_not_executed_unasked(run, mix, tmp_path, capsys):
    touched = tmp_path / "executed"
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    renders = {"renderer": "os:system", "renderer_kwargs": {"command": f"touch {touched}"}}
    config["rewards"]["mix"] = [
        {"name": "os:system", "weight": 1.0, "kwargs": {"command": f"touch {touched}"}},
        {"name": "clip_similarity", "weight": 1.0, "kwargs": renders},
    ]
    config["rewards"]["mix"].append({"name": "nano:/own.py:factory", "weight": 0.0})  # no name of ours
    (run / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    base = run / "base.yaml"
    base.write_text(yaml.safe_dump({"rewards": {"mix": config["rewards"]["mix"]}}), "utf-8")
    for mixed in ([], ["--mix", "rewards.mix.0.weight=0.5"], ["--mix", "rewards.mix.0.kwargs={}"]):
        assert main(["rescore", str(run), *mixed]) == 2
        said = capsys.readouterr().err
        assert f"{run / 'config.yaml'}: rewards.mix.0.name: 'os:system' names code" in said
        assert "rewards.mix.1.kwargs.renderer: 'os:system' names code" in said
        assert "rewards.mix.2.name: 'nano:/own.py:factory' names code" in said
        assert "--trust os:system" in said
    del config["rewards"]["mix"][2]
    config["rewards"]["mix"][1]["kwargs"] = {"renderer": "images_api", "renderer_kwargs": {"urls": "http://other"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    assert main(["rescore", str(run)]) == 2
    assert "rewards.mix.1.kwargs.renderer: 'images_api' names a server" in capsys.readouterr().err
    judge = {"urls": "http://other", "model": "m", "rubric": {"criteria": {"kind": {"question": "?"}}}}
    config["rewards"]["mix"][1] = {"name": "llm_judge", "weight": 1.0, "kwargs": judge}
    (run / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    assert main(["rescore", str(run)]) == 2
    assert "rewards.mix.1.name: 'llm_judge' names a server" in capsys.readouterr().err
    # Another mix leaves nothing of it in use, and a replay uses no renderer of evaluations.
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"evaluation": renders}), "utf-8")
    other = load_recorded(run / "config.yaml", [mix(json_format=1.0)], trusted=[], used=["rewards"])
    assert [reward.name for reward in other.rewards.mix] == ["json_format"]
    config["base"] = "base.yaml"  # by a detour
    del config["rewards"]["mix"]
    (run / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    assert main(["rescore", str(run), "--mix", "seed=1"]) == 2
    assert "rewards.mix.0.name: 'os:system' names code" in capsys.readouterr().err
    assert not touched.exists()


def test_two_mixes_of_one_file_name_keep_both_results(run, mix, tmp_path, capsys):
    first = mix(letters=1.0)
    (tmp_path / "elsewhere").mkdir()
    second = shutil.move(mix(token_f1=1.0), tmp_path / "elsewhere" / "other.yaml")
    mix(letters=1.0)
    for file in (first, str(second), first, str(second)):
        assert main(["rescore", str(run), "--mix", file]) == 0
    folders = sorted((run / "rescored").iterdir())
    assert [summary_of(folder)["new"]["weights"] for folder in folders] == [{"letters": 1.0}, {"token_f1": 1.0}]
    assert folders[0].name == "other" and folders[1].name.startswith("other-")
