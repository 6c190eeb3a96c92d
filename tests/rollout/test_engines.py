"""Several engines behind one: the completions are those of a single engine, in the rows' order."""

from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.errors import ConfigError, RolloutError
from grpo_mmpc.pipelines.evaluate import run_evaluation
from grpo_mmpc.rollout import engines as module
from grpo_mmpc.rollout.engines import Engines, engines_of_this_machine
from grpo_mmpc.rollout.offline import engine_shares
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.jobs import Done, Lost

SAMPLING = SamplingConfig(max_tokens=1, temperature=0.0)


def test_rows_go_out_in_the_batches_of_a_single_engine_and_come_back_in_order():
    seen = []

    def submit(process, function, config, checkpoint, rows, sampling):
        seen.append((process, list(rows)))
        return Done([f"{row}!" for row in rows])

    engines = Engines(submit, None, None, count=2, rows_each=2)
    assert engines.rows_at_once == 4
    assert engines.generate([0, 1, 2, 3, 4], SAMPLING) == ["0!", "1!", "2!", "3!", "4!"]
    assert [rows for _, rows in seen] == [[0, 1], [2, 3], [4]]
    assert {process for process, _ in seen} == {0, 1}


def test_a_killed_process_ends_the_evaluation_in_words():
    lost = Lost(error=RuntimeError("terminated abruptly"), raised=False, stopped=False)
    engines = Engines(lambda *_: Done(lost), None, None, count=2, rows_each=1)
    with pytest.raises(RolloutError, match=r"was killed.*\(terminated abruptly\).*fewer --workers"):
        engines.generate([0, 1], SAMPLING)


def test_an_engine_takes_the_gpus_of_its_tensor_parallel_size(make_config, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    vllm = make_config(rollout={"backend": "vllm", "engine": {"tensor_parallel_size": 2}})
    assert [one["CUDA_VISIBLE_DEVICES"] for one in engine_shares(vllm, workers=None)] == ["0,1", "2,3"]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in engine_shares(make_config(), workers=None)] == ["0", "1", "2", "3"]
    with pytest.raises(ConfigError, match="--workers 3 times 2 GPUs needs more than the 4 there are"):
        engine_shares(vllm, workers=3)
    servers = make_config(rollout={"backend": "vllm", "mode": "server", "servers": ["http://a:1"]})
    assert len(engine_shares(servers, workers=None)) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert len(engine_shares(vllm, workers=None)) == 1 and len(engine_shares(vllm, workers=2)) == 2


def test_a_single_engine_is_started_in_this_process(make_config, monkeypatch):
    @contextmanager
    def engine(config, *, checkpoint):
        yield "the engine"

    monkeypatch.setattr(module, "offline_engine", engine)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with engines_of_this_machine(make_config(), checkpoint=None, workers=None) as opened:
        assert opened == "the engine"


@pytest.mark.slow
def test_an_evaluation_by_two_workers_has_the_samples_of_one(make_config, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = make_config(evaluation={"max_items": 12, "batch_size": 4, "controls": ["shuffled_image"]})
    for workers in (1, 2):
        run_evaluation(config, checkpoint=None, out=tmp_path / str(workers), workers=workers)
    for name in ("samples.parquet", "controls/control-shuffled_image-base/cqbench/samples.parquet"):
        one, two = (pq.read_table(tmp_path / workers / name).to_pandas() for workers in ("1", "2"))
        pd.testing.assert_frame_equal(one, two)  # where equals() of tables takes NaN for another number
        assert len(one) > 2 * 4  # each engine has a batch, and one of them another
