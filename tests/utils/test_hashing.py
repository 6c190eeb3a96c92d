"""Stable hashes: values that files, splits and seeds on disk depend on, and what they promise."""

import hashlib

import pytest

from grpo_mmpc.utils.hashing import digest, file_digest, hex_digest, in_share, json_digest, number, seed, stable_order


def test_values_are_those_of_every_earlier_version(tmp_path):
    (tmp_path / "file").write_bytes(b"image")
    assert digest("a\0b", size=8).hex() == "ffc151170352baa3"
    assert hex_digest("prompt", b"bytes", size=12) == "1cbfc159ebef2bcd9017a26f"
    assert json_digest({"b": 1, "a": [True, None, "é"]}, size=8) == "abd3076ee2c13efc"
    assert file_digest(tmp_path / "file") == "bd8df2a8a9f082951387300becc9be66"
    assert number("item-1") == 16495451072961554548
    assert seed("item-1") == 2144675005
    assert stable_order(["a", "b", "c", "d"], salt="0") == [2, 3, 0, 1]


def test_parts_are_hashed_as_one_text():
    assert digest("ab", b"c", memoryview(b"d"), size=8) == hashlib.blake2b(b"abcd", digest_size=8).digest()


def test_the_order_of_keys_does_not_matter():
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})


def test_half_a_surrogate_pair_can_be_hashed():
    assert digest("\ud800") != digest("\udcff")


@pytest.mark.parametrize(("share", "chosen"), [(0.0, 0), (1.0, 1000)])
def test_no_share_chooses_nothing_and_the_whole_everything(share, chosen):
    assert sum(in_share(str(i), share=share) for i in range(1000)) == chosen


def test_a_smaller_share_is_part_of_a_larger_one():
    few, many = ({i for i in range(1000) if in_share(f"salt\0{i}", share=share)} for share in (0.1, 0.3))
    assert few < many and 60 < len(few) < 140


def test_the_order_of_a_subset_is_that_of_the_whole():
    ids = [f"item-{i}" for i in range(50)]
    whole = [ids[i] for i in stable_order(ids, salt="s")]
    some = ids[10:30]
    assert [some[i] for i in stable_order(some, salt="s")] == [one for one in whole if one in some]
    assert [ids[i] for i in stable_order(ids, salt="t")] != whole
