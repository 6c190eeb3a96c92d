"""Prompts on their way to another process of the same machine."""

import pickle
from types import SimpleNamespace

import pytest
from PIL import Image

from grpo_mmpc.config import ModelSection
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rollout.prompts import load_prompt_image
from grpo_mmpc.rollout.vllm.engine import LocalVLLM, _tensor_parallel_group
from grpo_mmpc.rollout.vllm.protocol import Prompt
from grpo_mmpc.rollout.vllm.requests import by_path, read_images


def showing(image: Image.Image) -> Prompt:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "title?"}]
    return Prompt(token_ids=[1] * 300, conversation=[{"role": "user", "content": content}], count=8, seed=1)


def test_a_prompt_sent_by_path_comes_back_as_it_was(tmp_path):
    Image.effect_noise((300, 300), 80).convert("RGB").save(tmp_path / "a.png")
    processor = load_processor(ModelSection(name_or_path="nano:qwen2_5_vl"))
    prompt = showing(load_prompt_image(str(tmp_path / "a.png"), processor))
    sent = by_path(prompt)
    assert sent.conversation[0]["content"][0] == {"type": "image", "image": str(tmp_path / "a.png")}
    assert read_images(sent, processor) == prompt
    in_memory = showing(Image.new("RGB", (8, 8), "red"))
    assert read_images(by_path(in_memory), processor) == in_memory


def test_ranks_that_share_an_engine_exchange_less_than_three_kilobytes_a_prompt(tmp_path, monkeypatch):
    """Also for an image that no processor has made small: its pixels would be 12 MB."""
    from torch import distributed

    Image.new("RGB", (2000, 2000), "red").save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    mine, theirs = [showing(load_prompt_image(path, None)) for _ in range(4)], showing(load_prompt_image(path, None))
    sent: list[int] = []

    def gather(lists, prompts, group):
        sent.append(len(pickle.dumps(prompts)))
        lists[:] = [[by_path(theirs)], prompts]

    monkeypatch.setattr(distributed, "all_gather_object", gather)
    monkeypatch.setattr(distributed, "get_rank", lambda group: 1)
    engine: LocalVLLM = object.__new__(LocalVLLM)
    engine.__dict__.update(SimpleNamespace(_group="gloo", _tensor_parallel=2, _processor=None).__dict__)
    everyones, first = engine._exchange(mine)
    assert everyones == [theirs, *mine] and first == 1
    assert sent[0] < 4 * 3000


def test_ranks_that_share_an_engine_exchange_prompts_by_the_cpu_whatever_the_trainer_uses(monkeypatch):
    """Over NCCL, the default of processes with GPUs, they would travel through the GPU's memory."""
    from torch import distributed

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(
        distributed, "new_subgroups_by_enumeration", lambda ranks, *, backend="nccl": ((backend, ranks), [])
    )
    assert _tensor_parallel_group(2) == ("gloo", [[0, 1], [2, 3]])


@pytest.mark.parametrize("asked", [None, 512])
def test_an_engine_beside_a_trainer_keeps_room_for_what_a_step_asks(make_config, asked):
    from grpo_mmpc.rollout.vllm.arguments import engine_arguments

    engine = {} if asked is None else {"max_num_seqs": asked}
    config = make_config(rollout={"backend": "vllm", "engine": engine})
    for sequences, expected in ((16, 128), (300, 300)):
        arguments = engine_arguments(config, beside_trainer=True, num_sequences=sequences)
        assert arguments["max_num_seqs"] == (asked or expected)
    assert ("max_num_seqs" in engine_arguments(config)) == (asked is not None)
