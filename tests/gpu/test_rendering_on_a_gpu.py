"""Pictures of a diffusion pipeline on a GPU: one seed each, whatever the batch, in fp32 and in half
precision."""

from importlib.util import find_spec

import numpy as np
import pytest

from grpo_mmpc.rendering.diffusers import DiffusersRenderer
from tests.gpu.conftest import DEVICE
from tests.rendering.tiny_pipelines import save_stable_diffusion, save_stable_diffusion_3

pytestmark = pytest.mark.skipif(
    find_spec("diffusers") is None, reason="diffusers is not installed: pip install 'grpo-mmpc[diffusers]'"
)

PROMPTS = ["a red mug", "a blue kite", "a green tote bag", "a red mug"]


def largest_difference(left, right) -> int:
    return int(np.abs(np.asarray(left).astype(int) - np.asarray(right).astype(int)).max())


@pytest.mark.parametrize("save", [save_stable_diffusion, save_stable_diffusion_3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1), ("float16", 8)])
def test_a_picture_depends_on_prompt_and_seed_and_not_on_its_batch(tmp_path, save, dtype, tolerance):
    renderer = DiffusersRenderer(model=str(save(tmp_path)), init_kwargs={"dtype": dtype}, device=DEVICE, batch_size=4)
    assert renderer.pipeline.device.type == DEVICE
    together = renderer.render(PROMPTS, seeds=[3, 1, 4, 3])
    alone = [renderer.render([prompt], seeds=[seed])[0] for prompt, seed in zip(PROMPTS, [3, 1, 4, 3], strict=True)]
    assert all(largest_difference(a, b) <= tolerance for a, b in zip(together, alone, strict=True))
    assert largest_difference(together[0], together[3]) <= tolerance
    assert largest_difference(together[0], renderer.render(PROMPTS[:1], seeds=[9])[0]) > 20
