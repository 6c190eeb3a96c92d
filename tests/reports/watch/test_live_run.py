"""What a run folder tells about its run: how far it is, what it does, what is wrong with it."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.reports.watch.live_run import LiveRun, find_runs
from grpo_mmpc.reports.watch.progress import State
from tests.reports.run.fake_run import build_run
from tests.reports.watch.runs import begin, hold, log, record, row, written


@pytest.fixture
def run(tmp_path):
    return begin(tmp_path / "run")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    return build_run(folder, items_per_category=4, checkpoints=("base", "checkpoint-20"), compare=False, images=False)


@pytest.fixture
def gone():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def look(folder):
    return LiveRun(folder, "run").look()


def test_a_run_is_running_while_its_process_lives(run):
    hold(run)
    assert look(run).progress.state == State.RUNNING


def test_a_run_whose_process_is_gone_was_killed_and_the_command_that_goes_on_is_named(run, gone):
    hold(run, pid=gone)
    progress = look(run).progress
    assert progress.state == State.KILLED and progress.left == ""
    assert progress.doing.endswith(f"go on with: grpo-mmpc train {run / 'config.yaml'}")


def test_a_run_of_another_machine_says_when_it_last_wrote(run, gone):
    hold(run, pid=gone, machine="node7")
    for path in (run, *run.iterdir()):
        written(path, ago_s=90)
    progress = look(run).progress
    assert progress.state == State.RUNNING
    assert "on node7, last written 1 min 3" in progress.doing


def test_a_run_that_ended_in_order_is_stopped_or_finished(tmp_path, run):
    (run / ".train.lock").write_text("")
    assert look(run).progress.state == State.STOPPED
    whole = begin(tmp_path / "whole", finished=True)
    assert (look(whole).progress.state, look(whole).progress.doing) == (State.FINISHED, "in 1 h 0 min")


def test_the_phase_is_read_off_the_files(run):
    hold(run)
    (run / "manifest.json").rename(run / "later")
    assert look(run).progress.doing.startswith("starting")
    (run / "later").rename(run / "manifest.json")
    answers = run / "evaluations" / "base" / "cqbench" / "completions.jsonl"
    answers.parent.mkdir(parents=True)
    answers.write_text("{}\n" * 12)
    assert look(run).progress.doing == "evaluating base: 12 of 40 items answered"
    answers.write_text("{}\n" * 40)
    assert look(run).progress.doing == "evaluating base: 40 of 40 items answered, scoring"
    (answers.parent / "summary.json").write_text("{}")
    assert look(run).progress.doing == "sampling completions for step 1"
    record(run, 1)
    assert look(run).progress.doing == "updating on the completions of step 1"
    log(run, row(1))
    assert look(run).progress.doing == "sampling completions for step 2"
    (saving := run / "checkpoints" / ".saving" / "checkpoint-1").mkdir(parents=True)
    assert look(run).progress.doing == "sampling completions for step 2, saving checkpoint-1"
    saving.rmdir()
    log(run, row(10))
    assert look(run).progress.doing.startswith("finishing")


def test_an_evaluation_on_servers_stands_beside_the_step_that_goes_on(run):
    hold(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["evaluation"] = {**(config.get("evaluation") or {}), "where": "servers"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    log(run, row(2))
    (run / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    answers = run / "evaluations" / "checkpoint-2" / "cqbench" / "completions.jsonl"
    answers.parent.mkdir(parents=True)
    answers.write_text("{}\n" * 12)
    record(run, 3)
    doing = "updating on the completions of step 3"
    assert look(run).progress.doing == f"{doing}, evaluating checkpoint-2: 12 of 40 items answered"
    (answers.parent / "summary.json").write_text("{}")
    assert look(run).progress.doing == doing


def test_time_left_is_that_of_the_steps_left_at_the_pace_so_far(run):
    hold(run)
    log(run, row(1))
    assert look(run).progress.left == "3.0 s a step, about 27 s left", "nine steps of step_time"
    for step in range(1, 5):  # an evaluation lies between steps 2 and 3
        written(record(run, step), ago_s={1: 100, 2: 90, 3: 20, 4: 10}[step])
    log(run, row(4))
    assert look(run).progress.left == "30 s a step, about 3 min 0 s left", "90 s for three steps, six to go"


def test_steps_before_a_resumption_do_not_count_for_the_pace(run):
    hold(run)
    manifest = json.loads((run / "manifest.json").read_text())
    started = (written_at := record(run, 1)).stat().st_mtime
    written(written_at, ago_s=10_000)
    (run / "manifest.json").write_text(json.dumps(manifest | {"started": "2020-01-01T00:00:00+00:00"}))
    record(run, 2)
    log(run, row(2))
    assert look(run).progress.pace_s == pytest.approx(10_000, rel=0.01)
    began = datetime.fromtimestamp(started - 100, UTC).isoformat()
    (run / "manifest.json").write_text(json.dumps(manifest | {"started": began}))
    assert look(run).progress.pace_s == 3.0, "one file since the start: the logged step_time"


def test_epochs_give_the_number_of_steps_where_the_recipe_does_not(run):
    config = (run / "config.yaml").read_text().replace("max_steps: 10", "num_train_epochs: 2")
    (run / "config.yaml").write_text(config)
    assert look(run).progress.total is None
    log(run, row(4, epoch=0.5))
    assert look(run).progress.total == 16, "eight steps an epoch"


def test_troubles_of_the_latest_steps_are_alarms(run):
    log(run, *(row(step, dead_group_share=1.0, reward_hacking_alarms=1.0) for step in range(1, 6)))
    alarms = look(run).alarms
    assert any(sentence.startswith("No group has variance in steps 1 to 5") for sentence in alarms)
    assert any("reward hacking?" in sentence for sentence in alarms)
    log(run, *(row(step) for step in range(6, 11)))
    assert look(run).alarms == [], "they have passed"


def test_the_newest_group_holds_equal_completions_once_the_best_first(run):
    record(run, 1, texts=("old", "{"))
    record(run, 2)
    [group] = look(run).groups
    assert (group.step, group.task, group.prompt, group.spread) == (2, "image_to_text", "Write the title.", 1.5)
    assert [(one.text, one.count, one.reward, one.advantage) for one in group.samples] == [
        ("a red mug", 2, 0.25, 0.5),
        ("{", 1, 0.0, -1.0),
    ]
    assert [one.is_malformed for one in group.samples] == [False, True]


def test_a_step_that_is_sampled_again_after_a_resumption_is_shown_as_it_is_now(run):
    live = LiveRun(run, "run")
    record(run, 1, texts=("before", "{"))
    assert live.look().groups[0].samples[0].text == "before"
    record(run, 1, texts=("after", "{"))
    assert live.look().groups[0].samples[0].text == "after"


def test_the_newest_evaluation_stands_beside_the_base_with_the_interval_of_the_change(evaluated):
    newest = look(evaluated).newest
    assert newest.checkpoint == "checkpoint-20" and newest.items["image_to_text"] == 36
    bleu = next(one for one in newest.tasks["image_to_text"] if one.label == "BLEU")
    summaries = {
        name: json.loads((evaluated / "evaluations" / name / "cqbench" / "summary.json").read_text())
        for name in ("base", "checkpoint-20")
    }
    means = {name: one["tasks"]["image_to_text"]["metrics"]["bleu"]["mean"] for name, one in summaries.items()}
    assert (bleu.before, bleu.after) == (pytest.approx(means["base"]), pytest.approx(means["checkpoint-20"]))
    assert bleu.interval.low < bleu.change < bleu.interval.high
    assert not any("Attribute recall:" in one.label for one in newest.tasks["image_to_text"])


def test_items_of_one_product_count_once_in_the_interval_of_the_newest_change(tmp_path):
    # An interval takes six items that stand alone: 36 are enough (above), five products are not.
    def of_five_products(rows):
        return [row | {"group": f"product {number % 5}"} for number, row in enumerate(rows)]

    shown = {"checkpoints": ("base", "checkpoint-20"), "compare": False, "images": False, "edit": of_five_products}
    newest = look(build_run(tmp_path / "run", items_per_category=4, **shown)).newest
    assert {change.interval for changes in newest.tasks.values() for change in changes} == {None}


def test_evaluations_are_those_of_the_suite_that_the_run_names(run):
    hold(run)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"suite": {"name": "own", "items": 9}}))
    folder = run / "evaluations" / "base" / "own"
    folder.mkdir(parents=True)
    (folder / "completions.jsonl").write_text("{}\n" * 3)
    assert look(run).progress.doing == "evaluating base: 3 of 9 items answered"
    metrics = {"bleu": {"mean": 0.25}, "parse_rate": {"mean": 1.0}}
    summary = {"suite": "own", "version": "1", "tasks": {"image_to_text": {"metrics": metrics}}}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert look(run).evaluated == "base: bleu 0.250"


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "metrics.jsonl", "rollouts/step-000003.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff{", b"[1, 2]", b'{"trainer": 3, "step": {}, "rewards": []}'])
def test_one_broken_file_ends_nothing(run, name, content):
    hold(run)
    log(run, row(1), row(2))
    record(run, 2)
    record(run, 3)
    (run / name).write_bytes(content)
    view = look(run)
    assert view.progress.state == State.RUNNING
    if name.endswith("parquet"):
        assert view.notes and view.notes[0].startswith("step-000003.parquet cannot be read")
    if name != "metrics.jsonl":
        assert view.progress.step == 2


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "rollouts/step-000001.parquet", ".train.lock", "evaluations/base/cqbench/completions.jsonl"],
)
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up_and_a_link_leads_nowhere(run, tmp_path, name):
    elsewhere = begin(tmp_path / "elsewhere" / "run")
    log(elsewhere, row(7))
    record(elsewhere, 1, prompt="secret")
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    assert look(run).groups == []
    path.unlink()
    path.symlink_to(elsewhere / name)
    view = look(run)
    assert (view.progress.step, view.groups, view.progress.state) == (0, [], State.STOPPED)


@pytest.mark.parametrize("value", ["x", None, [1], {"a": 1}, 1e308, True])
def test_values_of_another_kind_end_nothing(run, value):
    keys = [*row(1), "signal/bleu/advantage_share", "reward_hacking_alarms", "skipped_updates", "epoch"]
    log(run, *(dict.fromkeys(keys, value) | {"step": step} for step in range(1, 6)))
    (run / "manifest.json").write_text(json.dumps(dict.fromkeys(("started", "suite", "seconds", "finished"), value)))
    assert look(run).progress.step == 5


def test_looking_writes_nothing_and_takes_no_lock(run):
    hold(run)
    log(run, row(1))
    record(run, 1)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    look(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert (run / ".train.lock").read_text() == f"process {os.getpid()} on {platform.node()}\n"


def test_a_folder_without_a_run_waits_where_one_may_begin_and_is_refused_elsewhere(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "later"):
        [run] = find_runs([tmp_path / name], wait=True)
        assert run.look().progress.state == State.WAITING
        with pytest.raises(EvaluationError, match=r"is no run folder|does not exist"):
            find_runs([tmp_path / name], wait=False)
    begin(tmp_path / "later")
    assert run.look().progress.state == State.STOPPED, "it has begun meanwhile"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(EvaluationError, match=r"other is no run folder: expected config.yaml, .*name the run_dir"):
        find_runs([tmp_path / "other"], wait=True)


def test_an_ablation_is_all_its_runs_those_that_wait_too_and_no_run_is_shown_twice(tmp_path):
    folder = tmp_path / "ablation"
    begin(folder / "bleu" / "seed-0")
    (folder / "chrf").mkdir()
    for name in ("bleu/seed-0.yaml", "chrf/seed-0.yaml", "ablation.yaml"):
        (folder / name).write_text("")
    runs = find_runs([folder, folder / "bleu" / "seed-0"], wait=False)
    assert [(run.name, run.look().progress.state) for run in runs] == [
        ("bleu/seed-0", State.STOPPED),
        ("chrf/seed-0", State.WAITING),
    ]
