"""Batches of like length."""

from grpo_mmpc.encoders.texts import length_batches


def test_every_item_is_in_one_batch_longest_first() -> None:
    assert length_batches([3, 5, 4]) == [[1, 2, 0]]


def test_no_item_is_padded_to_more_than_twice_its_length() -> None:
    assert length_batches([512, 10, 12, 25]) == [[0], [3], [2, 1]]


def test_from_sixteen_items_on_a_batch_takes_only_items_that_need_little_padding() -> None:
    # 7/8 of 24 is 21
    assert [len(batch) for batch in length_batches([24] * 16 + [21, 20])] == [17, 1]
    assert [len(batch) for batch in length_batches([24] * 14 + [20, 12])] == [16]


def test_a_batch_is_bounded_in_items_and_padded_tokens() -> None:
    assert [len(batch) for batch in length_batches([10] * 130)] == [64, 64, 2]
    assert [len(batch) for batch in length_batches([512] * 17)] == [16, 1]  # 16 * 512 = 8192


def test_an_oversized_item_is_a_batch_of_its_own() -> None:
    assert length_batches([9000, 9000]) == [[0], [1]]


def test_no_items_no_batches() -> None:
    assert length_batches([]) == []
