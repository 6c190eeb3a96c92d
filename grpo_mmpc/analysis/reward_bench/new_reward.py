"""A reward of one's own to start from: a factory that runs, its test, and the line that puts it into a recipe."""

import keyword
from dataclasses import dataclass
from pathlib import Path

from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards import registered_rewards

_REWARD = '''"""A reward: how well a completion does at one thing, between 0 and 1."""


def NAME(*, min_letters: int = 3):
    """Share of the true title's words that the predicted title holds.

    Range: [0, 1]. Needs: the true title. Cost: microseconds a completion.

    Gamed by: long titles, because words that are not in the true one cost nothing.

    Args:
        min_letters: Shorter words do not count.
    """

    def score(*, predictions, references, **columns):
        # Lists of N, one entry for each well-formed completion. Others you can name here: completions, prompts, tasks,
        # item_ids, categories, image_paths, title, attributes, and every further column of your catalogue.
        values = []
        for prediction, reference in zip(predictions, references, strict=True):
            expected = {word for word in (reference or "").lower().split() if len(word) >= min_letters}
            found = expected & set(prediction.lower().split())
            # None = cannot be scored; it neither helps nor hurts the completion.
            values.append(len(found) / len(expected) if expected else None)
        return values

    score.tasks = ("image_to_text",)
    score.needs = ("reference",)
    score.value_range = (0.0, 1.0)
    score.worst_score = 0.0  # what a malformed completion gets
    return score
'''

_TEST = '''"""The rules of NAME, with numbers that can be checked by hand."""

from pathlib import Path

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.rewards import check_mix, load_factory

FACTORY = f"{Path(__file__).with_name('NAME.py')}:NAME"


def values(*pairs, **options):
    score = load_factory(FACTORY)(**options)
    return score(predictions=[p for p, _ in pairs], references=[r for _, r in pairs])


def test_words_of_the_true_title_count_whatever_their_order_and_case():
    # cotton, tote, bag: two of three
    assert values(("Bag of COTTON", "Cotton Tote Bag"), ("Steel Kettle", "Cotton Tote Bag")) == [2 / 3, 0.0]


def test_an_item_without_a_title_is_unscored():
    assert values(("Cotton Bag", None), ("Cotton Bag", "")) == [None, None]


def test_short_words_count_only_if_asked_for():
    assert values(("XL", "XL Bag")) == [0.0]
    assert values(("XL", "XL Bag"), min_letters=2) == [0.5]


def test_a_recipe_accepts_it():
    assert list(check_mix([RewardSpec(name=FACTORY, weight=1.0)], ["image_to_text"])) == []
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReward:
    """What was written."""

    reward: Path
    test: Path
    recipe_line: str
    """For ``rewards.mix``; the path is relative to where the command ran."""


def write_new_reward(name: str, *, folder: Path) -> NewReward:
    """Write ``NAME.py`` and ``test_NAME.py``.

    Raises:
        RewardError: The name is no Python name or taken, the folder is missing, or a file is in the
            way.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise RewardError(
            f"{name!r} cannot be the name of a Python function; use letters, digits and underscores, and no digit first, "
            f"such as {_suggestion(name)}"
        )
    if name in registered_rewards():
        raise RewardError(f"{name!r} is an installed reward already (grpo-mmpc rewards list); choose another name")
    if not folder.is_dir():
        raise RewardError(f"{folder} is not a folder; make it first, or leave --dir out")
    contents = {folder / f"{name}.py": _REWARD, folder / f"test_{name}.py": _TEST}
    for path in contents:
        if path.exists():
            raise RewardError(f"{path} exists and is left as it is; choose another name or --dir")
    for path, text in contents.items():
        path.write_text(text.replace("NAME", name), encoding="utf-8")
    reward, test = contents
    return NewReward(reward=reward, test=test, recipe_line=f'- {{name: "{reward}:{name}", weight: 0.1}}')


def _suggestion(name: str) -> str:
    kept = "".join(letter if letter.isalnum() else "_" for letter in name).strip("_").lower()
    if kept[:1].isdigit() or keyword.iskeyword(kept):
        kept = f"reward_{kept}"
    return kept if kept.isidentifier() else "my_reward"
