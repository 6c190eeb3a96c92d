"""What callbacks write, show and ask for, without a training."""

import json
from types import SimpleNamespace

import pytest

from grpo_mmpc.rewards.troubles import LATEST
from grpo_mmpc.training.callbacks import GracefulStop, MetricsWriter, StepProgress, TroubleLog
from grpo_mmpc.utils.distributed import Ranks
from grpo_mmpc.utils.processes import StopRequest

MAIN = {"is_world_process_zero": True}


def test_a_step_is_shown_with_its_rewards_and_a_dash_for_one_that_scored_nothing():
    shown = []
    progress = StepProgress(["bleu", "clip"], lambda *work, detail: shown.append((*work, detail)))
    logs = {"reward": 0.25, "rewards/bleu/mean": 0.5, "dead_group_share": 0.125, "tokens_per_second": 80.4}
    progress.on_log(None, SimpleNamespace(global_step=3, max_steps=9, **MAIN), None, logs)
    progress.on_log(None, SimpleNamespace(global_step=3, max_steps=9, **MAIN), None, {"train_loss": 1.0})
    progress.on_step_begin(None, SimpleNamespace(global_step=3, max_steps=9, **MAIN), None)
    detail = "reward 0.250  bleu 0.500  clip -  zero-variance groups 12%  80 tokens/s"
    assert shown == [("training", 3, 9, detail)] * 2


def test_the_first_step_is_shown_before_it_is_done():
    shown = []
    progress = StepProgress([], lambda *work, detail: shown.append((*work, detail)))
    progress.on_step_begin(None, SimpleNamespace(global_step=0, max_steps=9, **MAIN), None)
    progress.on_step_begin(None, SimpleNamespace(global_step=0, max_steps=9, is_world_process_zero=False), None)
    assert shown == [("training", 0, 9, "")]


def test_a_step_is_written_and_the_final_summary_is_not(tmp_path):
    writer, state = MetricsWriter(tmp_path / "metrics.jsonl"), SimpleNamespace(global_step=3, **MAIN)
    writer.on_log(None, state, None, {"train_loss": 1})
    assert not writer.path.exists()
    writer.on_log(None, state, None, {"train_runtime": 1, "loss": 2})
    assert json.loads(writer.path.read_text()) == {"step": 3, "train_runtime": 1, "loss": 2}


def test_steps_that_will_be_logged_again_are_dropped_from_the_metrics(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        writer.on_log(None, SimpleNamespace(global_step=step, **MAIN), None, {"loss": float("nan")})
    writer.on_train_begin(None, SimpleNamespace(global_step=2, **MAIN), None)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_a_line_of_metrics_that_a_kill_cut_short_is_cut_when_the_run_resumes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "lo')
    writer = MetricsWriter(path)
    writer.on_train_begin(None, SimpleNamespace(global_step=2, **MAIN), None)
    assert path.read_text() == '{"step": 1, "loss": NaN}\n'
    writer.on_log(None, SimpleNamespace(global_step=2, **MAIN), None, {"loss": 0.5})
    assert path.read_text() == '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 0.5}\n'


def test_a_trouble_is_logged_once_when_it_begins_and_again_when_it_is_back(caplog):
    log = TroubleLog({"bleu": 1.0})

    def said(step: int, *, is_main: bool = True, **logs: float) -> list[str]:
        caplog.clear()
        state = SimpleNamespace(global_step=step, is_world_process_zero=is_main)
        log.on_log(None, state, None, {"reward": 0.5, "dead_group_share": 0.0, **logs})
        return [record.getMessage() for record in caplog.records]

    unscored = {"rewards/bleu/unscored_share": 1.0}
    [sentence] = said(1, **unscored)
    assert sentence.startswith("The reward bleu is trained on and scored not one completion in step 1")
    assert said(2, **unscored) == said(3, **{"rewards/bleu/unscored_share": 0.5}) == []
    assert said(4, reward_hacking_alarms=1.0) == [], "the alarm of a monitor is logged where it rings"
    for step in range(5, 5 + LATEST - 1):
        assert said(step, dead_group_share=1.0) == []
    [sentence] = said(9, dead_group_share=1.0)
    assert sentence.startswith(f"No group has variance in steps 5 to {4 + LATEST}")
    assert said(10, dead_group_share=0.0) == []
    for step in range(11, 11 + LATEST - 1):
        assert said(step, dead_group_share=1.0) == []
    assert said(15, is_main=False, dead_group_share=1.0) == []


@pytest.mark.parametrize(("here", "elsewhere"), [(True, False), (False, True), (False, False)])
def test_all_ranks_save_and_stop_if_one_was_asked_to(here, elsewhere):
    request = StopRequest("stopping")
    stop = GracefulStop(request, Ranks(count=2, gather=lambda flags: [*flags, elsewhere]))
    request.times = int(here)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_step_end(None, SimpleNamespace(global_step=3, max_steps=9), control)
    assert (control.should_save, control.should_training_stop) == (here or elsewhere, False)  # saved as if it went on
    stop.on_save(None, None, control)
    assert control.should_training_stop == (here or elsewhere)
    assert stop.stopped == (here or elsewhere)
