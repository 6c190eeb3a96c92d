"""A whole run, for tests of what comes after it."""

import pytest

from grpo_mmpc.pipelines.train import run_training
from tests.training.nano_runs import SAVING, mix


@pytest.fixture
def uninterrupted(make_config, tmp_path):
    """A run of four steps over two epochs, with every evaluation of the hook."""
    config = make_config(
        rewards=mix(digest=1.0), trainer=SAVING, run_dir=str(tmp_path / "whole"), data={"max_train_items": 6}
    )
    assert run_training(config) == 0
    return config
