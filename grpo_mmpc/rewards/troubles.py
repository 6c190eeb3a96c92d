"""Troubles of the learning signal, in sentences: logged when they begin, and first on the page."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from grpo_mmpc.utils.model_paths import NANO_MODELS

LATEST = 5
"""Steps in a row that make a trouble, and lines of the log that are looked at."""
MONITOR = "monitor"
"""The key of the reward-hacking alarm."""
DOMINANT = 0.8
"""Share of the advantages' variance above which one reward decides alone."""
_NANO_IDS = "nano-"


def signal_troubles(rows: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> dict[str, str]:
    """Return what is wrong with the latest steps, by a key that tells one trouble from another.

    ``rows`` are lines of ``metrics.jsonl`` so far; ``weights`` are by reward name as it is logged,
    0 = monitor.
    """
    logged = [row for row in rows if "reward" in row]
    latest = logged[-LATEST:]
    if not latest:
        return {}
    before = logged[-LATEST - 1]["step"] if len(logged) > LATEST else 0
    is_long = latest[-1]["step"] - before >= LATEST  # a line may stand for several steps
    steps = f"steps {latest[0]['step']} to {latest[-1]['step']}" if len(latest) > 1 else f"step {latest[0]['step']}"
    trained = [name for name, weight in weights.items() if weight > 0]
    found = {}
    if _all(latest, "malformed_share", 1.0):
        cut = fmean(float(row.get("completions/clipped_ratio", 0.0)) for row in latest)
        found["malformed"] = (
            f"Not one completion of {steps} is a valid answer, and {cut:.0%} are cut off at max_completion_length: "
            "rewards cannot tell them apart. Allow longer ones, or show the policy answers first (grpo-mmpc sft)."
        )
    for name in trained:
        # A step without a valid answer says nothing of a reward.
        asked = [row for row in latest if f"rewards/{name}/unscored_share" in row]
        if asked and _all(asked, f"rewards/{name}/unscored_share", 1.0):
            found[f"unscored {name}"] = (
                f"The reward {name} is trained on and scored not one completion in {steps}: nothing is learnt from it. "
                "Look at what it needs, and whether the catalogue has it."
            )
        elif _all(latest, f"rewards/{name}/raw_mean", 0.0) and _all(latest, f"signal/{name}/dead_groups", 1.0):
            found[f"zero {name}"] = f"The reward {name} gave every completion 0 in {steps}: nothing is learnt from it."
    if is_long and (_all(latest, "dead_group_share", 1.0) or _all(latest, "frac_reward_zero_std", 1.0)):
        found["zero variance"] = (
            f"No group has variance in {steps}: completions of a prompt score alike, so nothing is learnt. Sample at a "
            "higher temperature or in larger groups, or reward what differs."
        )
    if is_long and _all(latest, "set_aside_share", 1.0):
        found["set aside"] = (
            f"Not one prompt of {steps} could be trained on: nothing is learnt. set_aside.jsonl of the run says why."
        )
    for name in trained if len(trained) > 1 and is_long else []:
        shares = [float(row.get(f"signal/{name}/advantage_share", 0.0)) for row in latest]
        others = [f"signal/{other}/dead_groups" for other in trained if other != name]
        # In steps of image prompts, rewards of titles score nothing and json_format is met.
        if min(shares) > DOMINANT and all(any(row.get(key, 1.0) < 1.0 for key in others) for row in latest):
            found[f"dominant {name}"] = (
                f"The reward {name} holds {fmean(shares):.0%} of the advantages' variance in {steps}: the others have "
                "hardly a say, whatever their weight."
            )
    if latest[-1].get("reward_hacking_alarms"):
        found[MONITOR] = (
            "A monitor falls while a trained reward rises (reward hacking?): read the latest rollouts, and weigh the "
            "monitor or a reward like it."
        )
    return found


def nano_troubles(config: Mapping[str, Any], item_ids: Sequence[str]) -> dict[str, str]:
    """Return whether embedded nano models are asked about products that they have never seen.

    ``config`` is a recipe as plain data, ``item_ids`` are some or all of the catalogue's.
    """
    if not item_ids or all(item_id.startswith(_NANO_IDS) for item_id in item_ids):
        return {}
    named = [name for model in NANO_MODELS if (name := f"nano:{model}") in _texts(config)]
    if not named:
        return {}
    return {
        "nano": f"{' and '.join(named)} {'knows' if len(named) == 1 else 'know'} only the products of the nano "
        "catalogue: what tiny models write and score on others is nonsense, which shows that everything runs and "
        "nothing else. Take a real model for a result."
    }


def _all(rows: Sequence[Mapping[str, Any]], key: str, value: float) -> bool:
    return all(key in row and row[key] == value for row in rows)


def _texts(content: Any) -> set[str]:
    if isinstance(content, str):
        return {content}
    entries = content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
    return {text for entry in entries for text in _texts(entry)}
