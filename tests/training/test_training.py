"""GRPO on the nano policies: what is trained and recorded, and what is said of what fails."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.errors import RewardError, TrainingError
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.utils.files import read_json_lines
from tests.training.nano_runs import QUIET, SAVING, mix, rollouts, session_for

BOTH = pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])


@BOTH
@pytest.mark.parametrize("task", TASKS)
def test_every_adapter_parameter_moves_and_no_base_parameter_does(make_config, architecture, task):
    config = make_config(architecture, tasks=[task], rewards=mix(digest=1.0), trainer={"max_steps": 3})
    session = session_for(config)
    before = {name: p.detach().clone() for name, p in session.trainer.model.named_parameters()}
    session.train(before=None, after_save=None)
    for name, parameter in session.trainer.model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == ("lora_" in name), f"{name} {'moved' if moved else 'did not move'}"
    assert all("language_model" in name for name, p in session.trainer.model.named_parameters() if p.requires_grad)


def by_hand(rows: list[dict], weights: dict[str, float], *, aggregation: str, scale: str, group: int) -> np.ndarray:
    """Advantages of a generation batch by the formulas of GRPO, Dr. GRPO and GDPO in NumPy."""
    rewards = {name: np.array([row[f"reward/{name}"] for row in rows]).reshape(-1, group) for name in weights}  # [B, G]
    if aggregation == "normalize_then_sum":
        total = sum(
            w * (rewards[n] - rewards[n].mean(1, keepdims=True)) / (rewards[n].std(1, ddof=1, keepdims=True) + 1e-4)
            for n, w in weights.items()
        )
        return ((total - total.mean()) / (total.std(ddof=1) + 1e-4)).ravel()
    total = sum(w * rewards[n] for n, w in weights.items())
    centred = total - total.mean(1, keepdims=True)
    spread = {"group": total.std(1, ddof=1, keepdims=True), "batch": total.std(ddof=1), "none": None}[scale]
    return (centred if spread is None else centred / (spread + 1e-4)).ravel()


@pytest.mark.parametrize(
    ("aggregation", "scale"),
    [("sum_then_normalize", s) for s in ("group", "batch", "none")] + [("normalize_then_sum", "group")],
)
def test_recorded_advantages_equal_the_formula_and_monitors_do_not_count(make_config, aggregation, scale):
    weights = {"digest": 0.7, "title_length": 0.3}
    config = make_config(
        rewards=mix(**weights, echo_item=0.0) | {"aggregation": aggregation},
        trainer={"max_steps": 1, "scale_rewards": scale, "per_device_train_batch_size": 16},
    )
    session_for(config).train(before=None, after_save=None)
    rows = rollouts(config)
    expected = by_hand(rows, weights, aggregation=aggregation, scale=scale, group=4)
    assert len(rows) == 16
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose([row["advantage"] for row in rows], expected, atol=2e-3, rtol=1e-3)


def test_a_reward_that_is_constant_over_each_group_gives_advantages_of_exactly_zero_and_zero_variance_groups(
    make_config,
):
    config = make_config(rewards=mix(echo_item=1.0), trainer={"max_steps": 1, "temperature": 0.1})
    session_for(config).train(before=None, after_save=None)
    rows = rollouts(config)
    assert all(row["prediction"] is not None for row in rows), "a malformed completion would get its own score"
    assert [row["advantage"] for row in rows] == [0.0] * 8
    logged = json.loads((Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()[0])
    assert logged["dead_group_share"] == 1.0


@BOTH
def test_every_completion_is_scored_against_its_own_row(make_config, small_catalogue, architecture):
    config = make_config(
        architecture,
        tasks=list(TASKS),
        rewards=mix(digest=1.0, echo_item=0.0),
        trainer={"max_steps": 4, "steps_per_generation": 2, "gradient_accumulation_steps": 2},
    )
    session_for(config).train(before=None, after_save=None)
    rows = rollouts(config)
    items = read_json_lines(small_catalogue / "items.jsonl")
    titles = {item["item_id"]: item["title"] for item in items}
    assert {row["task"] for row in rows} == set(TASKS)
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert len({row["prompt_id"] for row in group}) == 1
        assert [row["generation"] for row in group] == [0, 1, 2, 3]
    assert sum(row["prediction"] is not None for row in rows) > len(rows) / 2
    for row in rows:
        number = int(row["item_id"].rpartition("-")[2])
        assert row["prompt_id"] == f"{row['task']}:{row['item_id']}"
        assert row["reward/echo_item"] == (0.0 if row["prediction"] is None else number)
        # A policy that was taught both answers gives each prompt the answer of its own task.
        if row["prediction"] is not None:
            assert row["completion"].startswith(f'{{"{TASKS[row["task"]].json_key}":')
        image = (small_catalogue / "images" / f"{row['item_id']}.png").read_bytes()
        assert row["image_path"] == str(small_catalogue / "images" / f"{row['item_id']}.png")
        title = titles[row["item_id"]]
        assert (title in row["prompt"]) == (row["task"] == "text_to_image"), "what is asked for is not shown"
        assert row["image_hash"] == hashlib.blake2b(image, digest_size=16).hexdigest()


def test_permuting_the_mix_leaves_completions_and_advantages_unchanged(make_config, tmp_path):
    weights = {"digest": 0.6, "title_length": 0.4, "echo_item": 0.0}
    outcomes = []
    for order in (list(weights), list(weights)[::-1]):
        config = make_config(rewards=mix(**{n: weights[n] for n in order}), run_dir=str(tmp_path / order[0]))
        session_for(config).train(before=None, after_save=None)
        outcomes.append([(row["completion"], row["advantage"]) for row in rollouts(config)])
    for (text_a, advantage_a), (text_b, advantage_b) in zip(*outcomes, strict=True):
        assert text_a == text_b
        assert advantage_a == pytest.approx(advantage_b, abs=1e-5)


def test_the_same_seed_repeats_a_run_and_another_seed_does_not(make_config, tmp_path):
    texts = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        config = make_config(rewards=mix(digest=1.0), seed=seed, run_dir=str(tmp_path / name))
        session_for(config).train(before=None, after_save=None)
        texts[name] = [(row["item_id"], row["completion"]) for row in rollouts(config)]
    assert texts["a"] == texts["b"]
    assert texts["a"] != texts["c"]


def test_trackers_get_every_evaluation_at_the_step_of_its_policy(make_config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = {**SAVING, "max_steps": 2, "report_to": "tensorboard"}
    config = make_config(rewards=mix(digest=1.0), trainer=trainer, data={"max_train_items": 6})
    assert run_training(config) == 0
    [file] = Path(config.run_dir).rglob("*tfevents*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/image_to_text/parse_rate")] == [0, 2]
    assert [event.step for event in events.Scalars("train/reward")] == [1, 2]


@BOTH
def test_fsdp_wraps_the_blocks_that_the_model_has(make_config, architecture):
    """Gemma-3 lists blocks of a text tower of SigLIP, which it does not have."""
    from accelerate import FullyShardedDataParallelPlugin

    from grpo_mmpc.training.trl_seams import wrap_own_blocks

    model = session_for(make_config(architecture)).trainer.model
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    wrap_own_blocks(model, plugin)
    plugin.set_auto_wrap_policy(model)
    decoder = {"qwen2_5_vl": "Qwen2_5_VLDecoderLayer", "gemma3": "Gemma3DecoderLayer"}[architecture]
    assert decoder in plugin.transformer_cls_names_to_wrap


def test_an_evaluation_leaves_gradient_checkpointing_as_it_is(make_config):
    from grpo_mmpc.tasks.prompt_rows import prompt_rows
    from grpo_mmpc.types import SamplingConfig

    config = make_config(
        trainer={"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    )
    session, data = session_for(config), RunData(config)
    session.trainer.model.gradient_checkpointing_enable({"use_reentrant": True})
    layer = session.trainer.model.base_model.model.model.language_model.layers[0]
    before = layer._gradient_checkpointing_func.keywords
    with session.engine(base=False) as engine:
        rows = prompt_rows(data.catalogue, data.train[:2], ["image_to_text"])
        engine.generate(rows, SamplingConfig(max_tokens=3, temperature=0.0))
    assert layer._gradient_checkpointing_func.keywords == before == {"use_reentrant": True}


@BOTH
def test_a_saved_adapter_and_its_merged_export_reproduce_the_live_policy(make_config, architecture):
    from grpo_mmpc.evaluation.suite import Suite
    from grpo_mmpc.models.policy import load_policy
    from grpo_mmpc.rollout.transformers_engine import TransformersEngine
    from grpo_mmpc.tasks.prompt_rows import prompt_rows

    config = make_config(
        architecture,
        rewards=mix(digest=1.0),
        trainer={"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "learning_rate": 0.1, "beta": 0.0},
    )
    session = session_for(config)
    data = RunData(config)
    rows = prompt_rows(data.catalogue, data.held_out[:4], TASKS)
    suite = Suite(rows=tuple(rows), sampling={task: TASKS[task].greedy({task: 12}) for task in TASKS}, settings={})

    def answers(engine) -> list[str]:
        return [
            a
            for task in suite.tasks
            for a in engine.generate([r for r in rows if r.task == task], suite.sampling[task])
        ]

    with session.engine(base=True) as engine:
        base_before = answers(engine)
    session.train(before=None, after_save=None)
    with session.engine(base=True) as engine:
        assert answers(engine) == base_before
    with session.engine(base=False) as engine:
        live = answers(engine)
    assert live != base_before
    loaded = load_policy(config.model, adapter=Path(config.run_dir) / "checkpoints/checkpoint-3")
    assert answers(TransformersEngine(loaded, session.trainer.processing_class, batch_size=3)) == live
    merged = loaded.merge_and_unload()
    assert answers(TransformersEngine(merged, session.trainer.processing_class, batch_size=8)) == live


def test_a_failing_evaluation_is_loud_and_fatal_only_if_asked(make_config, tmp_path, monkeypatch, caplog):
    import grpo_mmpc.evaluation.runner as runner

    def broken(*arguments, **keywords):
        raise OSError("disk full")

    monkeypatch.setattr(runner, "write_evaluation", broken)
    config = make_config(rewards=mix(digest=1.0), trainer={"max_steps": 1})
    assert run_training(config) == 1
    assert "EVALUATION FAILED for base" in caplog.text
    manifest = json.loads((Path(config.run_dir) / "manifest.json").read_text())
    assert manifest["evaluation_failures"] == [
        f"{name}: OSError: disk full" for name in ("base", "checkpoint-1", "final")
    ]

    fatal = make_config(evaluation={"on_error": "raise"}, run_dir=str(tmp_path / "fatal"), trainer={"max_steps": 1})
    with pytest.raises(OSError, match="disk full"):
        run_training(fatal)


def test_a_failing_reward_stops_the_run_or_is_counted_in_the_manifest(make_config, tmp_path):
    config = make_config(rewards=mix(failing=1.0), evaluation=QUIET)
    with pytest.raises(RewardError, match=r"'failing' failed on \d+ completions: RuntimeError: no licence"):
        run_training(config)
    lenient = make_config(
        rewards=mix(failing=1.0, digest=1.0) | {"on_error": "unscored"},
        evaluation=QUIET,
        run_dir=str(tmp_path / "lenient"),
    )
    assert run_training(lenient) == 0
    manifest = json.loads((tmp_path / "lenient/manifest.json").read_text())
    well_formed = sum(row["prediction"] is not None for row in rollouts(lenient))
    assert manifest["reward_errors"] == ({"failing": well_formed} if well_formed else {})


def test_broken_rows_are_set_aside_with_reasons_and_training_goes_on(make_config, small_catalogue, tmp_path, capsys):
    folder = tmp_path / "catalogue"
    shutil.copytree(small_catalogue, folder)
    image = sorted((folder / "images").iterdir())[5]
    image.write_bytes(image.read_bytes()[:40])
    config = make_config(data={"catalogue": str(folder)}, rewards=mix(digest=1.0), evaluation=QUIET)
    assert run_training(config) == 0
    (line,) = (Path(config.run_dir) / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["item_id"] == image.stem
    assert "1 broken rows set aside" in capsys.readouterr().out


def test_too_few_items_for_one_generation_batch_is_said_with_the_numbers(make_config):
    config = make_config(data={"max_train_items": 1})
    with pytest.raises(TrainingError, match="1 training items do not fill one generation batch of 2 prompts"):
        session_for(config)


def test_the_weight_multiplies_what_advantages_and_recorded_rewards_are_made_of(make_config):
    config = make_config(rewards=mix(digest=1.0, title_length=2.0), trainer={"max_steps": 2})
    session_for(config).train(before=None, after_save=None)
    rows = rollouts(config)
    for step in (1, 2):
        batch = [row for row in rows if row["step"] == step]
        expected = by_hand(
            batch, {"digest": 1.0, "title_length": 2.0}, aggregation="sum_then_normalize", scale="group", group=4
        )
        np.testing.assert_allclose([row["advantage"] for row in batch], expected, atol=2e-3, rtol=1e-3)
        assert [row["weighted/title_length"] for row in batch] == pytest.approx(
            [2.0 * row["reward/title_length"] for row in batch]
        )
    logged = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    assert all(line["signal/digest/within_group_std"] > 0 for line in logged)
    assert all(0.1 < line["memory/peak_gib"] < 100 for line in logged), "torch alone takes more than 0.1 GiB"
    assert all(0 <= line["reward_time/wait_share"] < 1 for line in logged)


def test_steps_that_reuse_rollouts_draw_no_tokens_and_wait_for_no_reward(make_config):
    config = make_config(
        rewards=mix(digest=1.0), trainer={"max_steps": 2, "num_iterations": 2, "max_completion_length": 8}
    )
    session_for(config).train(before=None, after_save=None)
    drew, reused = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    tokens = 8 * drew["completions/mean_length"]
    assert drew["tokens_per_second"] == pytest.approx(tokens / drew["step_time"])
    assert drew["reward_time/wait_share"] == pytest.approx(drew["reward_time/wait"] / drew["step_time"])
    assert (reused["tokens_per_second"], reused["reward_time/wait_share"]) == (0.0, 0.0)
