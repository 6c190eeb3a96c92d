"""Encoders under several threads: loaded once, texts encoded once, the trainer undisturbed."""

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from grpo_mmpc.encoders.bertscore import BertScoreEncoder, bertscore_encoder
from grpo_mmpc.encoders.cache import EncodingCache
from grpo_mmpc.encoders.clip import ClipEncoder
from grpo_mmpc.encoders.loading import shared, whole_weights
from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()

THREADS = 8
TEXTS = [f"red bag number {i}" for i in range(60)]


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns a thousand times more often than usual, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def at_once(run: Callable[[int], Any], *, threads: int = THREADS) -> list[Any]:
    """Return ``run(0)``, ``run(1)``, ..., started at the same moment; raise what any raises."""
    start = threading.Barrier(threads, timeout=30)

    def wait_and_run(number: int) -> Any:
        start.wait()
        return run(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(wait_and_run, range(threads)))


def test_threads_that_ask_at_once_get_one_object_that_was_built_once() -> None:
    built: list[object] = []

    def build(*, name: str) -> object:
        time.sleep(0.05)  # long enough for every thread to find nothing built yet
        built.append(object())
        return built[-1]

    found = at_once(lambda _: shared(build, name="a"))
    assert len(built) == 1
    assert set(map(id, found)) == {id(built[0])}
    assert shared(build, name="b") is not built[0]


def test_one_configuration_does_not_wait_for_the_loading_of_another() -> None:
    first_is_loading, second_is_there = threading.Event(), threading.Event()

    def slow() -> str:
        first_is_loading.set()
        return "slow" if second_is_there.wait(timeout=30) else "waited in vain"

    def quick() -> str:
        return "quick"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shared, slow)
        assert first_is_loading.wait(timeout=30)
        assert shared(quick) == "quick"
        second_is_there.set()
        assert first.result() == "slow"


def test_a_failed_build_is_tried_again() -> None:
    attempts: list[int] = []

    def build() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("no network")
        return "built"

    with pytest.raises(OSError, match="no network"):
        shared(build)
    assert shared(build) == "built"


def test_an_encoder_is_loaded_once_by_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo_mmpc.encoders import bertscore, loading

    monkeypatch.setattr(loading, "_slots", {})  # whatever other tests have loaded
    loads: list[str] = []
    original = bertscore._load

    def counted(folder: str, num_layers: int) -> Any:
        loads.append(folder)
        return original(folder, num_layers)

    monkeypatch.setattr(bertscore, "_load", counted)
    found = at_once(lambda _: bertscore_encoder(model="nano:minilm", num_layers=1, device="cpu"))
    assert len(loads) == 1
    assert set(map(id, found)) == {id(found[0])}


def test_a_small_cache_keeps_its_books_under_many_threads(short_turns: None) -> None:
    cache: EncodingCache[int, int] = EncodingCache(max_bytes=10)

    def hammer(number: int) -> None:
        for i in range(3000):
            key = (i * 7 + number) % 12
            cache.put(key, key, num_bytes=1 + key % 4)
            assert cache.get((key + 1) % 12) in (None, (key + 1) % 12)

    at_once(hammer)
    assert cache.num_bytes == sum(size for _, size in cache._entries.values()) <= 10


def test_a_text_that_several_threads_want_is_encoded_once(short_turns: None, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = BertScoreEncoder(model="nano:minilm", num_layers=1)
    finish = encoder._texts._finish

    def finish_late(*encoded: Any) -> Any:
        time.sleep(0.001)  # an encoding that is not held yet must not be looked for
        return finish(*encoded)

    monkeypatch.setattr(encoder._texts, "_finish", finish_late)
    scores = at_once(lambda _: encoder.score(predictions=TEXTS, references=TEXTS[::-1]).f1)
    assert encoder.encoded_texts == len(TEXTS)
    assert all(other == scores[0] for other in scores)


def test_a_tokenizer_is_used_by_one_thread_at_a_time(short_turns: None) -> None:
    """Its truncation changed by one thread while another tokenises raises "Already borrowed"."""
    encoder = ClipEncoder(model="nano:clip")

    def texts(number: int) -> list[str]:
        # Texts that fit and texts that do not switch truncation off and on.
        return [f"{'red bag ' * (1 + 100 * (i % 2))}{number} {i}" for i in range(100)]

    def encode(number: int) -> None:
        for text in texts(number):
            encoder._texts.of([text])

    at_once(encode)
    assert encoder.truncated_texts == THREADS * 50


def test_a_short_call_gets_its_turn_between_the_batches_of_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = BertScoreEncoder(model="nano:minilm", num_layers=1)
    original = encoder._texts._forward
    first_batch, others_turn = threading.Event(), threading.Event()
    batches: list[int] = []

    def forward(ids: Any, mask: Any) -> Any:
        batches.append(len(ids))
        first_batch.set()
        if len(batches) == 1:
            others_turn.wait(timeout=30)
        time.sleep(0.05)
        return original(ids, mask)

    monkeypatch.setattr(encoder._texts, "_forward", forward)
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(encoder.encode_references, [f"red bag {i}" for i in range(64 * 12)])
        assert first_batch.wait(timeout=30)
        short = pool.submit(encoder.encode_references, ["a mug"])
        others_turn.set()
        short.result(timeout=60)
        assert not long.done()
        long.result(timeout=60)


class Zero3:
    """Stands for Transformers' HfDeepSpeedConfig with stage 3."""

    def is_zero3(self) -> bool:
        return True


def test_loading_in_a_thread_hides_zero3_from_that_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that disagree about ZeRO-3 in a trainer's ``generate`` wait for each other forever."""
    from transformers.integrations import deepspeed

    config = Zero3()
    reference = weakref.ref(config)
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", reference)
    loading, seen = threading.Event(), threading.Event()

    def load() -> bool:
        with whole_weights():
            loading.set()
            assert seen.wait(timeout=30)
            with whole_weights():  # a loader may load in turn
                assert not deepspeed.is_deepspeed_zero3_enabled()
            return deepspeed.is_deepspeed_zero3_enabled()

    with ThreadPoolExecutor(1) as pool:
        hidden = pool.submit(load)
        assert loading.wait(timeout=30)
        in_the_trainer = deepspeed.is_deepspeed_zero3_enabled()
        seen.set()
        assert hidden.result() is False
    assert in_the_trainer is True
    assert deepspeed._hf_deepspeed_config_weak_ref is reference


def test_threads_that_load_together_leave_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from transformers.integrations import deepspeed

    config = Zero3()
    reference = weakref.ref(config)
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", reference)
    monkeypatch.delenv("FSDP_CPU_RAM_EFFICIENT_LOADING", raising=False)

    def load(number: int) -> bool:
        with whole_weights():
            time.sleep(0.01 * (number % 3))
            return deepspeed.is_deepspeed_zero3_enabled()

    assert at_once(load) == [False] * THREADS
    assert deepspeed._hf_deepspeed_config_weak_ref is reference
    assert "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ


def test_a_configuration_that_the_trainer_sets_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import deepspeed

    old, new = Zero3(), Zero3()
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", weakref.ref(old))
    with whole_weights():
        deepspeed.set_hf_deepspeed_config(new)
    assert deepspeed._hf_deepspeed_config_weak_ref() is new
