"""Rewards that keep an encoder on the GPU, in the trainer's process and in one of their own."""

import pytest

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config.rewards import RewardSpec
from grpo_mmpc.rewards import RewardMix
from grpo_mmpc.tasks import IMAGE_TO_TEXT
from tests.gpu.conftest import DEVICE


@pytest.mark.parametrize("isolated", [False, True])
def test_a_clip_reward_scores_on_the_gpu_as_on_a_cpu(make_config, isolated):
    catalogue = RunData(make_config()).catalogue
    records = [catalogue.record(i) for i in range(8)]
    columns = {
        "prompt_id": [record.item_id for record in records],
        "item_id": [record.item_id for record in records],
        "category": [record.category for record in records],
        "task": ["image_to_text"] * len(records),
        "reference": [str(record.title) for record in records],
        "image_path": [str(catalogue.image_path(record)) for record in records],
    }
    completions = [[{"role": "assistant", "content": IMAGE_TO_TEXT.answer(str(r.title))}] for r in records]
    scores = {}
    for device in (DEVICE, "cpu"):
        spec = RewardSpec(
            name="clip_similarity",
            weight=1.0,
            kwargs={"model": "nano:clip", "floor": -1.0, "device": device},
            isolated=isolated and device == DEVICE,
        )
        mix = RewardMix.from_specs([spec])
        try:
            scores[device] = mix.score(
                prompts=[[{"role": "user", "content": "title?"}]] * 8, completions=completions, **columns
            ).raw["clip_similarity"]
        finally:
            mix.close()
    assert scores[DEVICE] == pytest.approx(scores["cpu"], abs=1e-4)
    assert max(scores["cpu"]) - min(scores["cpu"]) > 1e-2
