"""One bad item never stops the others: rows that cannot be completed come back with the reason."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from grpo_mmpc.config.sections import ModelSection
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.policy import load_policy
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rollout import prompts
from grpo_mmpc.rollout.prompts import load_prompt_image, refusal
from grpo_mmpc.rollout.transformers_engine import TransformersEngine
from grpo_mmpc.tasks import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.distributed import Ranks
from grpo_mmpc.utils.single_out import Failure, Raised

GREEDY = SamplingConfig(max_tokens=4, temperature=0.0)


@pytest.fixture(scope="module")
def policy() -> tuple[Any, Any]:
    section = ModelSection(name_or_path="nano:qwen2_5_vl")
    return load_policy(section), load_processor(section)


@pytest.fixture
def engine(policy: tuple[Any, Any]) -> TransformersEngine:
    return TransformersEngine(*policy, batch_size=4)


def image_row(folder: Path, name: str, size: tuple[int, int]) -> PromptRow:
    path = folder / f"{name}.png"
    Image.new("RGB", size, "red").save(path)
    return row(name, IMAGE_TO_TEXT.messages(), image=str(path))


def title_row(name: str, title: str) -> PromptRow:
    return row(name, TEXT_TO_IMAGE.messages(title=title))


def row(name: str, messages: list[dict[str, Any]], *, image: str | None = None) -> PromptRow:
    return PromptRow(
        prompt_id=name,
        item_id=name,
        category="c",
        task="any",
        messages=messages,
        prompt_image_path=image,
        image_path=image,
        reference=None,
        title="",
    )


def test_an_image_that_no_model_takes_costs_its_own_row_only(engine: TransformersEngine, tmp_path: Path) -> None:
    fine = [image_row(tmp_path, name, (80, 80)) for name in "abc"]
    thin = image_row(tmp_path, "thin", (2000, 4))
    expected = engine.generate(fine, GREEDY)
    assert all(isinstance(text, str) for text in expected)
    first, refused, *others = engine.generate([fine[0], thin, *fine[1:]], GREEDY)
    assert [first, *others] == expected
    assert isinstance(refused, Failure)
    assert "2000 x 4 pixels, more than 100 times as long as wide" in refused.reason and "crop" in refused.reason


def test_rows_that_are_all_refused_alike_are_refused_one_by_one(engine: TransformersEngine, tmp_path: Path) -> None:
    results = engine.generate([image_row(tmp_path, name, (2000, 4)) for name in "ab"], GREEDY)
    assert [type(result) for result in results] == [Failure, Failure]


def test_an_image_that_is_gone_costs_its_own_row_only(engine: TransformersEngine, tmp_path: Path) -> None:
    gone, there = (image_row(tmp_path, name, (80, 80)) for name in "ab")
    (tmp_path / "a.png").unlink()
    failure, text = engine.generate([gone, there], GREEDY)
    assert isinstance(failure, Failure) and "a.png" in failure.reason
    assert isinstance(text, str)


def test_a_title_of_a_million_characters_is_refused_with_both_lengths(engine: TransformersEngine) -> None:
    failure, text = engine.generate([title_row("long", "abc " * 250_000), title_row("short", "a mug")], GREEDY)
    assert isinstance(failure, Failure)
    assert "tokens and a completion of up to 4 exceed the context of 1024; shorten the item's texts" in failure.reason
    assert isinstance(text, str)


def test_the_last_tokens_of_the_context_are_used(policy: tuple[Any, Any]) -> None:
    processor = policy[1]
    prompt = title_row("p", "a mug")
    length = prompts.model_inputs([prompt], processor, device="cpu")["input_ids"].shape[1]
    assert refusal(prompt, processor, max_tokens=4, context=length + 4) is None
    assert refusal(prompt, processor, max_tokens=4, context=length + 3) is not None
    assert refusal(prompt, processor, max_tokens=4, context=None) is None


def test_a_full_memory_halves_the_batch_for_good(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [title_row(name, f"a mug {name}") for name in "abcd"]
    expected = engine.generate(rows, GREEDY)
    generate, sizes = type(engine.model).generate, []

    def full(model: Any, **inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(model, **inputs)

    monkeypatch.setattr(type(engine.model), "generate", full)
    assert [engine.generate(rows, GREEDY), engine.generate(rows, GREEDY)] == [expected] * 2
    assert sizes == [4, 2, 2, 2, 2]
    assert engine.rows_at_once == 4  # ranks agree on it


def test_a_row_that_exceeds_the_memory_alone_says_what_to_lower(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = type(engine.model).generate

    def full(model: Any, **inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(model, **inputs)

    monkeypatch.setattr(type(engine.model), "generate", full)
    failure, text = engine.generate([title_row("long", "mug " * 300), title_row("short", "a mug")], GREEDY)
    assert isinstance(failure, Raised) and "model.processor_kwargs.max_pixels" in failure.reason
    assert isinstance(text, str)


def test_a_model_that_fails_on_everything_is_an_error(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, **inputs: Any) -> Any:
        raise IndexError("index out of range in self")

    monkeypatch.setattr(type(engine.model), "generate", broken)
    with pytest.raises(RolloutError, match=r"the policy failed in the same way on all of 2 items.*IndexError"):
        engine.generate([title_row("a", "a mug"), title_row("b", "a lamp")], GREEDY)


def test_where_every_pass_is_a_collective_refused_rows_are_filled(
    policy: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks pass equally often, with as many rows, whatever is refused on one of them."""
    model, processor = policy
    monkeypatch.setattr(next(model.parameters()), "ds_id", 0, raising=False)
    engine = TransformersEngine(model, processor, batch_size=2)
    generate, sizes = type(model).generate, []
    monkeypatch.setattr(
        type(model), "generate", lambda m, **inputs: sizes.append(len(inputs["input_ids"])) or generate(m, **inputs)
    )
    thin = [image_row(tmp_path, name, (2000, 4)) for name in "abc"]
    results = engine.generate([*thin, image_row(tmp_path, "d", (80, 80))], GREEDY)
    assert [type(result) for result in results] == [Failure] * 3 + [str]
    assert sizes == [2, 2]


def test_no_rank_waits_for_one_that_failed() -> None:
    barrier, gathered = threading.Barrier(2, timeout=20), []

    def concatenate(items: list[Any]) -> list[Any]:
        gathered.extend(items)
        barrier.wait()
        return list(gathered)

    class Rank(TransformersEngine):
        def _generate_on_this_rank(self, rows: Any, sampling: SamplingConfig) -> Any:
            if self.ranks.rank == 1:
                raise OSError("the disk is full")
            return ["text"] * len(rows)

    class Model:
        def parameters(self) -> list[Any]:
            return []

    ranks = [Rank(Model(), None, batch_size=2, ranks=Ranks(rank=r, count=2, gather=concatenate)) for r in range(2)]
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(rank.generate, [title_row("a", "a"), title_row("b", "b")], GREEDY) for rank in ranks]
        errors = [future.exception(20) for future in futures]
    assert isinstance(errors[0], RolloutError) and "rank 1 failed: OSError: the disk is full" in str(errors[0])
    assert isinstance(errors[1], OSError)


def test_decoded_images_are_held_up_to_a_number_of_bytes_and_known_by_their_file(tmp_path: Path) -> None:
    path = image_row(tmp_path, "a", (40, 40)).prompt_image_path
    assert path is not None
    first = load_prompt_image(path, None)
    assert load_prompt_image(path, None) is first
    image_row(tmp_path, "a", (50, 50))
    assert load_prompt_image(path, None).size == (50, 50)
    assert prompts._decoded.max_bytes <= 2**29
