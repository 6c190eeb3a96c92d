"""What of a catalogue makes the result of a run doubtful, said before it starts."""

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.completion.predictions import words_of_a_policy
from grpo_mmpc.config import RunConfig
from grpo_mmpc.rewards.troubles import nano_troubles


def doubts(config: RunConfig, data: RunData) -> list[str]:
    """Warn of values that a policy wrote, and of products that no nano model knows."""
    written = words_of_a_policy(data.catalogue.folder)
    nano = nano_troubles(config.model_dump(mode="json"), data.catalogue.items[:20]["item_id"]).values()
    return [*([written] if written else []), *(f"! {sentence}" for sentence in nano)]
