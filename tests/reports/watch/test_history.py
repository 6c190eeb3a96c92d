"""The steps of a run while they are logged: only what is new is read, however long it is."""

import json
from pathlib import Path

import pytest

from grpo_mmpc.reports.watch.history import MOST, History
from tests.reports.watch.runs import log, row


def test_a_look_reads_on_where_the_last_one_ended(tmp_path, monkeypatch):
    log(tmp_path, row(1), row(2))
    history = History(tmp_path)
    history.read()
    assert [one["reward"] for one in history.rows] == [0.01, 0.02] and history.step == 2
    read = []
    monkeypatch.setattr(json.JSONDecoder, "decode", lambda _, text: read.append(text) or row(3))
    log(tmp_path, row(3))
    history.read()
    history.read()
    assert len(read) == 1, "one line is new"
    assert history.step == 3


def test_a_line_that_is_being_written_is_left_until_it_is_whole(tmp_path):
    history, text = History(tmp_path), json.dumps(row(2))
    log(tmp_path, row(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(text[:40])
        file.flush()
        history.read()
        assert history.step == 1
        file.write(text[40:] + "\n")
    history.read()
    assert history.step == 2


def test_a_broken_line_and_values_that_are_no_numbers_are_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": NaN}\n\x00{"st\n[]\n{"step": "x"}\n{"reward": 1}\n')
    log(tmp_path, row(2))
    history = History(tmp_path)
    history.read()
    assert history.step == 2 and "reward" not in history.rows[0]


def test_a_run_that_goes_on_from_a_checkpoint_is_read_anew(tmp_path):
    log(tmp_path, *map(row, range(1, 9)))
    history = History(tmp_path)
    history.read()
    (tmp_path / "shorter").write_text("".join(f"{json.dumps(row(step))}\n" for step in (1, 2, 3)))
    (tmp_path / "shorter").replace(tmp_path / "metrics.jsonl")
    log(tmp_path, row(4, reward=0.5))
    history.read()
    assert [one["reward"] for one in history.rows] == [0.01, 0.02, 0.03, 0.5]
    (tmp_path / "metrics.jsonl").unlink()  # --overwrite
    history.read()
    assert (history.rows, history.step, list(history.latest)) == ([], 0, [])


def test_long_runs_are_thinned_to_means_of_neighbouring_steps(tmp_path):
    steps = 4 * MOST + 3
    log(tmp_path, *map(row, range(1, steps + 1)))
    history = History(tmp_path)
    history.read()
    assert len(history.rows) <= MOST + 1 and history.step == steps
    # Bins of eight steps: the reward of steps 1 to 8 is 0.01 to 0.08, 0.045 in the middle.
    assert (history.rows[0]["step"], history.rows[0]["reward"]) == (8.0, pytest.approx(0.045))
    assert [one["step"] for one in history.latest] == list(range(steps - 4, steps + 1))


def test_thinning_averages_only_the_steps_that_scored(tmp_path):
    values = [None, 1.0] * (MOST // 2 + 1)  # tasks take turns
    log(tmp_path, *(row(step, reward=value) for step, value in enumerate(values, start=1)))
    history = History(tmp_path)
    history.read()
    assert {one["reward"] for one in history.rows} == {1.0}


def test_metrics_that_lead_out_of_the_run_are_refused(tmp_path: Path):
    log(tmp_path, row(1))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="no file of"):
        History(tmp_path / "run").read()
