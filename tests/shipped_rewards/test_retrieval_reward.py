"""The retrieval reward: a text's probability of its own item among others."""

import math
from typing import Any

import pytest

from grpo_mmpc.errors import RewardError
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc_rewards import retrieval as module
from grpo_mmpc_rewards.retrieval import probabilities, retrieval

ensure_importable()
torch = pytest.importorskip("torch")

EAST, NORTH, NORTHEAST, BETWEEN = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]
UNREAD = [math.nan, math.nan]
TITLES = {
    "red mug": EAST,
    "RED MUG": EAST,  # a spelling that the encoder does not tell apart
    "blue mug": NORTH,
    "some mug": NORTHEAST,
    "mug": BETWEEN,
    "unread": UNREAD,
}


def values(texts: list[list[float]], own: list[list[float]], items: list[list[float]], temperature: float = 0.2) -> Any:
    alone = torch.tensor(own)[:, None]  # [N, 1, D]: one title each
    return probabilities(torch.tensor(texts), own=alone, items=torch.tensor(items), temperature=temperature)


def test_the_value_is_the_softmax_over_own_and_other_items():
    # cosines .6 with the own item, .8 with the other: e^3 / (e^3 + e^4) = 1 / (1 + e)
    assert values([NORTHEAST], [EAST], [EAST, NORTH]) == pytest.approx([1 / (1 + math.e)])
    # .8 and .6: 1 / (1 + 1/e); the two add up to 1
    assert values([BETWEEN], [EAST], [EAST, NORTH]) == pytest.approx([1 / (1 + 1 / math.e)])
    # a second other item at .8: e^3 / (e^3 + 2 e^4)
    assert values([NORTHEAST], [EAST], [NORTH, EAST, NORTH]) == pytest.approx([1 / (1 + 2 * math.e)])
    # the own title itself: e^5 / (e^5 + e^0)
    assert values([EAST], [EAST], [EAST, NORTH]) == pytest.approx([1 / (1 + math.exp(-5))])


def test_a_lower_temperature_decides_more_sharply():
    # e^6 / (e^6 + e^8)
    assert values([NORTHEAST], [EAST], [EAST, NORTH], 0.1) == pytest.approx([1 / (1 + math.e**2)])


def test_duplicates_of_the_own_item_are_no_negatives_and_alone_leave_nothing_to_find():
    assert values([EAST], [EAST], [EAST, EAST, NORTH]) == values([EAST], [EAST], [NORTH])
    assert values([EAST], [EAST], [EAST, EAST]) == [None]
    assert values([EAST], [EAST], [UNREAD, EAST]) == [None]


def test_what_cannot_be_read_is_unscored():
    assert values([UNREAD, EAST, EAST], [EAST, UNREAD, EAST], [EAST, NORTH])[:2] == [None, None]


class Encoder:
    """The sentence encoder of a world with two dimensions."""

    def encode(self, texts: list[str], *, keep: bool = False) -> Any:
        return torch.tensor([TITLES[text] for text in texts])

    embed_texts = encode

    def embed_images(self, paths: list[str]) -> Any:
        return torch.tensor([TITLES[path.removesuffix(".png")] for path in paths])

    def reads(self, texts: list[str]) -> list[bool]:
        return [text != "unread" for text in texts]


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sentence_encoder", lambda **_: Encoder())
    monkeypatch.setattr(module, "clip_encoder", lambda **_: Encoder())


def test_titles_are_held_against_those_of_the_training_split():
    reward = retrieval(temperature=0.2)
    reward.fit(["red mug", "RED MUG", "blue mug", "unread", "blue mug"])
    scores = reward(
        predictions=["some mug", "mug", "red mug", "mug", "mug"],
        references=["red mug", "red mug", "red mug", None, "unread"],
    )
    # one negative, "blue mug", that counts once: the other spelling is the item itself
    expected = [1 / (1 + math.e), 1 / (1 + 1 / math.e), 1 / (1 + math.exp(-5))]
    assert scores == [*map(pytest.approx, expected), None, None]


def test_the_catalogue_is_the_same_whatever_order_its_titles_come_in_and_no_larger_than_asked():
    titles = [f"mug {i}" for i in range(50)]
    one, other = retrieval(negatives=7), retrieval(negatives=7)
    one.fit(titles)
    other.fit(titles[::-1])
    chosen = [reward.score.function.scores.items for reward in (one, other)]
    assert len(chosen[0]) == 7 and set(chosen[0]) == set(chosen[1])


def test_titles_of_the_batch_stand_for_the_catalogue_where_none_are_wanted_of_it():
    reward = retrieval(negatives=0, temperature=0.2)
    assert reward.fit is None and "corpus" not in reward.needs
    batch = {"predictions": ["some mug", "mug", "blue mug"], "references": ["red mug", "red mug", "blue mug"]}
    # e^3 / (e^3 + e^4), e^4 / (e^4 + e^3), e^5 / (e^5 + 1): the other title counts once
    expected = [1 / (1 + math.e), 1 / (1 + 1 / math.e), 1 / (1 + math.exp(-5))]
    assert reward(**batch) == [*map(pytest.approx, expected)]


def test_any_title_of_an_item_is_its_own_and_none_of_them_another_items():
    reward = retrieval(temperature=0.2)
    reward.fit(["red mug", "blue mug", "mug"])
    # nearer to its second title (.96) than to "red mug" (.6), and neither is that of another item
    own_two = reward(predictions=["some mug"], references=["red mug"], more_references=[["mug"]])
    assert own_two == [pytest.approx(1 / (1 + math.exp((0.8 - 0.96) / 0.2)))]
    assert own_two[0] > reward(predictions=["some mug"], references=["red mug"])[0]
    # a title that cannot be read leaves the other
    assert reward(predictions=["mug"] * 2, references=["red mug"] * 2, more_references=[["unread"], []]) == (
        reward(predictions=["mug"] * 2, references=["red mug"] * 2)
    )


def test_images_of_the_training_split_stand_for_the_catalogue():
    reward = retrieval(encoder="clip", temperature=0.2)
    assert reward.fit is None and {"image", "corpus"} <= set(reward.needs)
    with pytest.raises(RewardError, match="fit_images"):
        reward(predictions=["mug"], image_paths=["red mug.png"])
    reward.fit_images(["red mug.png", "RED MUG.png", "blue mug.png", "unread.png"])
    values = reward(predictions=["some mug", "mug", "mug"], image_paths=["red mug.png", "red mug.png", None])
    # the same of one item alone and of a batch: e^3 / (e^3 + e^4) and e^4 / (e^4 + e^3)
    assert values == [pytest.approx(1 / (1 + math.e)), pytest.approx(1 / (1 + 1 / math.e)), None]
    assert reward(predictions=["some mug"], image_paths=["red mug.png"]) == values[:1]


def test_images_of_the_batch_stand_for_the_catalogue_once_for_each_item():
    reward = retrieval(encoder="clip", temperature=0.2, negatives=0)
    batch: dict[str, list[Any]] = {
        "predictions": ["some mug", "mug", "blue mug", "blue mug"],
        "image_paths": ["red mug.png", "red mug.png", "blue mug.png", None],
        "tasks": ["image_to_text", "text_to_image", "text_to_image", "text_to_image"],
    }
    # the photo of the other item once, though two completions have it for their own
    expected = [1 / (1 + math.e), 1 / (1 + 1 / math.e), 1 / (1 + math.exp(-5))]
    assert reward(**batch) == [*map(pytest.approx, expected), None]
    alone = {name: column[:2] for name, column in batch.items()}
    assert reward(**alone) == [None, None]
    assert reward(**{name: column[3:] for name, column in batch.items()}) == [None]


def test_an_image_that_cannot_be_read_is_no_item():
    reward = retrieval(encoder="clip", negatives=0)
    assert reward(predictions=["mug", "mug"], image_paths=["red mug.png", "unread.png"]) == [None, None]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"encoder": "dinov2"}, "encoder must be one of sentence, clip, found 'dinov2'"),
        ({"temperature": 0.0}, "found 0 and 1000"),
        ({"negatives": -1}, "found 0.05 and -1"),
    ],
)
def test_a_recipe_is_checked_before_an_encoder_loads(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        retrieval(**kwargs)


def test_the_own_title_beats_another_with_the_embedded_encoders(monkeypatch, photo):
    monkeypatch.undo()
    reward = retrieval(model="nano:minilm", device="cpu")
    titles = ["Acme Red Tote Bag, Large", "Brio Blue Mug, 12 oz", "Corva Green Lamp, Small"]
    reward.fit(titles)
    own, vague, other = reward(predictions=[titles[0], "product", titles[1]], references=titles[:1] * 3)
    assert own > 0.99 > vague > other
    assert other < 0.01
    clip = retrieval(encoder="clip", model="nano:clip", device="cpu", negatives=0)
    assert clip(predictions=["red bag"], image_paths=[photo]) == [None]
