"""Special tokens stand where Transformers looks for them."""

from types import SimpleNamespace

from grpo_mmpc.models.policy import show_special_tokens


def test_those_of_the_text_model_are_repeated_and_none_that_differs_is_taken():
    text = SimpleNamespace(bos_token_id=2, eos_token_id=1, pad_token_id=0)
    config = SimpleNamespace(get_text_config=lambda: text)
    generation = SimpleNamespace(bos_token_id=None, eos_token_id=[1, 5], pad_token_id=None)
    model = SimpleNamespace(config=config, generation_config=generation)
    show_special_tokens(model, SimpleNamespace(bos_token_id=2, eos_token_id=1, pad_token_id=7))
    assert (config.bos_token_id, config.eos_token_id) == (2, 1)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (2, [1, 5], None)
    assert not hasattr(config, "pad_token_id")
