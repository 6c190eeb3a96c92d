"""Rewards whose values a test can work out by hand."""

import hashlib


def digest():
    """A number in [0, 1) that depends on the completion alone."""

    def score(*, completions, **_):
        return [int(hashlib.md5(c.encode()).hexdigest()[:6], 16) / 16**6 for c in completions]

    return score


def echo_item(scale: float = 1.0):
    """The item's own number: the same for a whole group."""

    def score(*, item_ids, **_):
        return [scale * int(item.rpartition("-")[2]) for item in item_ids]

    return score


def title_length():
    """Length of the prediction."""

    def score(*, predictions, **_):
        return [len(p) / 100 for p in predictions]

    return score


def failing():
    """Raises on the first call."""

    def score(**_):
        raise RuntimeError("no licence")

    return score


def flat_at_first():
    """0.5 for all completions of an even item when it is first seen, then each one's own number."""
    seen = set()

    def score(*, completions, prompt_id, item_ids, **_):
        values = digest()(completions=completions)
        fresh = [
            int(item.rpartition("-")[2]) % 2 == 0 and prompt not in seen
            for item, prompt in zip(item_ids, prompt_id, strict=True)
        ]
        seen.update(prompt_id)
        return [0.5 if new else value for new, value in zip(fresh, values, strict=True)]

    score.worst_score = 0.5
    return score
