"""The wrong answers that a preview makes up, and how separation from the true one is counted."""

import random
from collections import Counter

import pytest

from grpo_mmpc.analysis.reward_bench.candidates import KINDS, TitlePool, candidates, shuffled
from grpo_mmpc.analysis.reward_bench.results import Preview, RewardResult, auc, task_result, win_rate
from grpo_mmpc.analysis.reward_bench.text import SHORT, lines
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import PromptRow

TITLES = [
    ("Bags", "Red Cotton Tote Bag"),
    ("Bags", "Blue Cotton Tote Bag with Zip"),
    ("Bags", "Green Leather Purse"),
    ("Home", "Steel Kettle"),
    ("Home", "Glass Vase"),
]


def row(
    title: str = "Red Cotton Tote Bag", task: str = "image_to_text", category: str = "Bags", item: str = "a"
) -> PromptRow:
    shown = title if task == "text_to_image" else None
    return PromptRow(
        prompt_id=f"{task}:{item}",
        item_id=item,
        category=category,
        task=task,
        messages=TASKS[task].messages(title=shown),
        prompt_image_path=None,
        image_path="x.png",
        reference=title,
        title=title,
    )


def made(*rows: PromptRow, seed: int = 0) -> dict[str, str]:
    return {one.kind: one.text for one in candidates(rows, TitlePool(TITLES), seed=seed)}


def test_every_kind_is_wrong_in_its_own_way():
    found = made(row())
    assert list(found) == list(KINDS)
    assert found["gold"] == "Red Cotton Tote Bag"
    assert found["same_category"] in ("Blue Cotton Tote Bag with Zip", "Green Leather Purse")
    assert found["other_category"] in ("Steel Kettle", "Glass Vase")
    assert found["truncated"] == "Red Cotton"
    assert sorted(found["word_shuffled"].split()) == ["Bag", "Cotton", "Red", "Tote"]
    assert found["word_shuffled"] != found["gold"]
    # Words of the category's titles that gold lacks; each stands in one title, so they come in
    # alphabetical order.
    assert found["keyword_stuffed"] == "Red Cotton Tote Bag blue green leather purse with zip"
    assert found["copied_prompt"] == TASKS["image_to_text"].instruction
    assert found["empty"] == ""
    assert found["over_long"].split() == ["Red", "Cotton", "Tote", "Bag"] * 75


def test_frequent_words_come_first_and_short_ones_and_numbers_do_not_count():
    pool = TitlePool([("A", "Mug of 12 oz"), ("A", "Big Mug"), ("A", "Big red Mug")])
    assert pool.frequent_words("A") == ["mug", "big", "red"]


def test_in_text_to_image_the_copied_prompt_holds_the_title():
    found = made(row(task="text_to_image"))
    assert found["copied_prompt"].endswith("\nRed Cotton Tote Bag")


def test_only_the_empty_answer_is_malformed():
    for task in TASKS.values():
        for one in candidates([row(task=task.name)], TitlePool(TITLES), seed=0):
            parsed = task.parse(one.completion)
            assert (parsed.prediction is None) == (one.kind == "empty"), one.kind
            assert parsed.prediction in (None, one.text)


def test_a_title_of_one_word_cannot_be_halved_or_shuffled_and_a_lone_category_has_no_other():
    found = candidates([row("Kettle", category="Alone")], TitlePool([("Alone", "Kettle")]), seed=0)
    assert {one.kind for one in found} == {"gold", "copied_prompt", "empty", "over_long"}
    assert shuffled(["bag", "bag"], random.Random(0)) is None


def test_the_seed_decides_and_other_items_do_not():
    one, other = row(item="a"), row("Green Leather Purse", item="b")
    alone = made(one)
    among = {c.kind: c.text for c in candidates([other, one], TitlePool(TITLES), seed=0) if c.item_id == "a"}
    assert alone == among
    drawn = Counter(made(one, seed=seed)["same_category"] for seed in range(20))
    assert set(drawn) == {"Blue Cotton Tote Bag with Zip", "Green Leather Purse"}


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        ([3, 4], [1, 2], 1.0),
        ([1, 2], [3, 4], 0.0),
        ([1, 1], [1, 1], 0.5),
        # 2 beats 1, ties 2, loses to 3: 1.5 of 3
        ([2], [1, 2, 3], 0.5),
        # 1 beats none and ties one, 3 beats both: 0.5 + 2 of 4
        ([1, 3], [1, 2], 2.5 / 4),
        ([], [1], None),
        ([1], [], None),
    ],
)
def test_auc_is_the_share_of_pairs_that_the_better_one_wins(better, worse, expected):
    assert auc(better, worse) == (None if expected is None else pytest.approx(expected))


def test_auc_is_the_number_of_pairs_won_over_all_pairs_ties_half():
    rng = random.Random(1)
    a, b = [rng.randrange(6) + 1 for _ in range(40)], [rng.randrange(6) for _ in range(30)]
    won = sum((x > y) + (x == y) / 2 for x in a for y in b)
    assert auc(a, b) == pytest.approx(won / 1200)


def test_wins_are_counted_within_items():
    # AUC: of the four pairs (1, 0.5) (1, 9) (10, 0.5) (10, 9) three are won; each item wins its own
    pairs = [(1.0, 0.5), (10.0, 9.0)]
    assert win_rate(pairs) == 1.0
    assert auc([1, 10], [0.5, 9]) == 0.75
    assert win_rate([(1.0, 1.0), (0.0, 1.0)]) == 0.25
    assert win_rate([]) is None


def test_unscored_candidates_are_left_out_and_counted():
    ones = candidates([row(item="a"), row(item="b")], TitlePool(TITLES), seed=0)
    scores = [None if one.item_id == "b" else 1.0 if one.kind == "gold" else 0.0 for one in ones]
    found = task_result(ones, scores)
    assert found.unscored_share == 0.5
    assert (found.kinds["truncated"].n, found.kinds["truncated"].auc, found.kinds["truncated"].wins) == (1, 1.0, 1.0)
    assert found.kinds["gold"].mean == 1.0
    assert (found.lowest, found.highest) == (0.0, 1.0)


def test_what_a_wrong_answer_earns_lies_between_an_unrelated_title_and_the_true_one():
    ones = candidates([row()], TitlePool(TITLES), seed=0)
    means = {"gold": 0.9, "other_category": 0.1, "truncated": 0.5, "empty": 0.0}
    found = task_result(ones, [means.get(one.kind, 0.9) for one in ones]).kinds
    assert (found["gold"].earned, found["other_category"].earned) == (1.0, 0.0)
    assert found["truncated"].earned == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    assert found["empty"].earned == pytest.approx(-0.125)
    assert all(kind.earned is None for kind in task_result(ones, [1.0] * len(ones)).kinds.values())


def told_of(gold: list[float], truncated: list[float]) -> str:
    """The row of halved titles' wins and marks in the terminal's table."""
    rows = [row(item=str(i)) for i in range(len(gold))]
    ones = candidates(rows, TitlePool(TITLES), seed=0)
    values = {"gold": gold, "truncated": truncated}
    scores = [values.get(one.kind, [-1.0] * len(gold))[int(one.item_id)] for one in ones]
    reward = RewardResult(name="mine", tasks={"image_to_text": task_result(ones, scores)})
    shown = Preview(
        catalogue="c", items=len(gold), seed=0, command="", rewards=[reward], examples={"image_to_text": {"gold": "g"}}
    )
    text = list(lines(shown, colour=False))
    table = next(i for i, line in enumerate(text) if line.startswith("wins "))
    return text[table + 1].split()[1 + list(SHORT).index("truncated")]


def test_a_mark_means_that_the_true_answer_loses_within_prompts_as_grpo_compares():
    # Every prompt's true answer wins by a hair. Over all pairs only 21 of 36 are won (AUC 0.58):
    # prompts differ more.
    gold = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    halves = [value - 0.5 for value in gold]
    assert auc(gold, halves) == pytest.approx(21 / 36)
    assert told_of(gold, halves) == "1.00"
    # Two of three prompts are lost, though 6 of 9 pairs are won (AUC 0.67).
    gold, halves = [5.0, 3.0, 10.0], [6.0, 4.0, 0.0]
    assert auc(gold, halves) == pytest.approx(6 / 9)
    assert told_of(gold, halves) == "0.33!"
    # Three of five are enough.
    assert told_of([1.0] * 5, [0.0, 0.0, 0.0, 2.0, 2.0]) == "0.60"
