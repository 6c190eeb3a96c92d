"""A training that torchrun has started."""

import pytest

from grpo_mmpc.pipelines.train import SHUTDOWN_TIMEOUT, _join_ranks


@pytest.mark.parametrize(("seconds", "is_named"), [(None, True), ("120", False)])
def test_the_30_s_that_torchrun_gives_are_named_unless_they_were_prolonged(
    make_config, monkeypatch, capsys, seconds, is_named
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.delenv(SHUTDOWN_TIMEOUT, raising=False)
    if seconds is not None:
        monkeypatch.setenv(SHUTDOWN_TIMEOUT, seconds)
    _join_ranks(make_config())
    advice = "kill this run 30 s after SIGTERM, saved or not; export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120 before starting"
    assert (advice in capsys.readouterr().err) == is_named
