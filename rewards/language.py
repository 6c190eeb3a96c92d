"""Rewards for the language of a completion."""

from grpo_mmpc.metrics.language import english_score
from grpo_mmpc.rewards.declaration import Reward

from .batches import ScoreTexts


def english_only() -> Reward:
    """Score 1 for English, which both tasks ask for, and less the surer it is another language.

    The function is ``grpo_mmpc.metrics.language.english_score``. It is 1 unless there is evidence
    against it: letters of another script (0 where half of them are), or a text that a language
    identifier takes for another of 16 languages beyond doubt. Brand names are no evidence: of 900
    nano and 81 grocery titles only one loses anything ("Zucchini", 0.06). Of 105 foreign titles of
    three words and more, 104 lose more than half.

    Range: [0, 1]. Needs: nothing. Cost: 6 ms for 64 completions.

    Gamed by: anything in English, whatever it says; foreign texts of one to three words, and
    foreign words inside an English title, pass.

    Example:
        >>> english_only()(predictions=["Red Tote Bag", "Sac à dos d'école pour fille"])
        [1.0, 0.0]
    """
    return Reward(
        score=ScoreTexts(english_score), value_range=(0.0, 1.0), targets=("text", "image"), language="English"
    )
