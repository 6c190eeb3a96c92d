"""The memory-bounded cache."""

from grpo_mmpc.encoders.cache import EncodingCache


def test_the_least_recently_used_encodings_go_first_once_memory_is_full() -> None:
    cache: EncodingCache[str, str] = EncodingCache(max_bytes=10)
    cache.put("a", "A", num_bytes=4)
    cache.put("b", "B", num_bytes=4)
    assert cache.get("a") == "A"  # now b is the oldest
    cache.put("c", "C", num_bytes=4)
    assert "b" not in cache
    assert cache.get("a") == "A"
    assert cache.get("c") == "C"
    assert cache.num_bytes == 8


def test_an_encoding_larger_than_the_cache_is_not_held_and_pushes_nothing_out() -> None:
    cache: EncodingCache[str, str] = EncodingCache(max_bytes=10)
    cache.put("a", "A", num_bytes=4)
    cache.put("huge", "H", num_bytes=11)
    assert cache.get("huge") is None
    assert cache.get("a") == "A"


def test_replacing_an_encoding_counts_its_memory_once() -> None:
    cache: EncodingCache[str, str] = EncodingCache(max_bytes=10)
    cache.put("a", "A", num_bytes=6)
    cache.put("a", "AA", num_bytes=7)
    assert cache.num_bytes == 7
    assert len(cache) == 1
    assert cache.get("a") == "AA"
