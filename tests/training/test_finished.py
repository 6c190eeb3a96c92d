"""Completions that are done are noticed while others are still being generated."""

import pytest
import torch

from grpo_mmpc.training.finished import finished_completions

END, PAD = 2, 0


class Scripted(torch.nn.Module):
    """Feeds itself the columns it is given, as ``generate`` feeds a model what was sampled."""

    def forward(self, *, input_ids=None, inputs_embeds=None):
        return input_ids

    def generate(self, prompt, *columns):
        self(input_ids=torch.tensor(prompt))
        for column in columns:
            self(input_ids=torch.tensor(column)[:, None])


def handed_over(model, *batches):
    seen = []
    with finished_completions(model, end_tokens=[END], receive=seen.append):
        for batch in batches:
            model.generate(*batch)
    return seen


def test_a_completion_is_handed_over_once_with_its_own_tokens_when_its_end_token_passes():
    prompt = [[9, 9], [9, 9], [9, 9]]
    columns = [[5, 6, 7], [END, 6, 7], [PAD, 6, END], [PAD, END, PAD]]
    assert handed_over(Scripted(), (prompt, *columns)) == [{0: [5, END]}, {2: [7, 7, END]}, {1: [6, 6, 6, END]}]


def test_several_that_end_together_are_handed_over_together():
    assert handed_over(Scripted(), ([[9, 9], [9, 9]], [5, 6], [END, END])) == [{0: [5, END], 1: [6, END]}]


def test_a_new_batch_starts_anew():
    batch = ([[9, 9]], [5], [END])
    assert handed_over(Scripted(), batch, batch) == [{0: [5, END]}, {0: [5, END]}]


def test_nothing_is_watched_after_the_block_not_even_after_an_error():
    model, seen = Scripted(), []
    with pytest.raises(RuntimeError), finished_completions(model, end_tokens=[END], receive=seen.append):
        raise RuntimeError
    model.generate([[9, 9]], [END])
    assert seen == []
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])
def test_what_generate_returns_is_what_was_handed_over(architecture):
    from PIL import Image

    from grpo_mmpc.tasks import IMAGE_TO_TEXT
    from grpo_mmpc.utils.model_paths import resolve_model
    from nano_weights.policy import load_policy
    from tests.conftest import ARCHITECTURES

    folder = resolve_model(ARCHITECTURES[architecture])
    model, processor = load_policy(folder)
    text = processor.apply_chat_template(IMAGE_TO_TEXT.messages(), add_generation_prompt=True, tokenize=False)
    images = [[Image.new("RGB", (84, 84), color)] for color in ("red", "blue", "green", "white")]
    inputs = processor(text=[text] * 4, images=images, return_tensors="pt", add_special_tokens=False)
    end = model.generation_config.eos_token_id
    seen: dict[int, list[int]] = {}
    torch.manual_seed(0)
    with finished_completions(model, end_tokens=[end], receive=seen.update):
        output = model.generate(**inputs, max_new_tokens=48, do_sample=True)
    completions = output[:, inputs["input_ids"].shape[1] :].tolist()
    assert seen, "nothing ended before the longest completion"
    for row, tokens in seen.items():
        assert tokens == completions[row][: completions[row].index(end) + 1]
