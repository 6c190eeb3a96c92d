"""``train --check``: everything that would be refused later, and what the run will be."""

import sys
from collections.abc import Sequence

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.pipelines.doubts import doubts
from grpo_mmpc.pipelines.recipe import described_recipe
from grpo_mmpc.statistics.power import what_items_show
from grpo_mmpc.statistics.verdicts import CONFIDENCE
from grpo_mmpc.utils.console import fitted
from grpo_mmpc.utils.distributed import num_processes


def check_run(recipe: Sequence[str], *, overwrite: bool = False) -> None:
    """Print the checked recipe, on standard error what it comes to, then ``ok``; trains nothing.

    Raises:
        ConfigError: Something is wrong with the recipe.
        CatalogueError: The catalogue cannot be read, or has too few items.
        TrainingError: The run folder is in the way, or the items do not fill a batch.
    """
    from grpo_mmpc.training.claim import check_folder  # heavy: imported on use

    config, text = described_recipe(recipe)
    print(text, end="", flush=True)
    check_folder(config, overwrite=overwrite)
    for line in _summary(config, RunData(config)):
        print(fitted(line, sys.stderr), file=sys.stderr)
    print("ok", file=sys.stderr)


def _summary(config: RunConfig, data: RunData) -> list[str]:
    # heavy: imported on use
    from grpo_mmpc.evaluation.suite import build_suite
    from grpo_mmpc.training.arguments import check_batches_fill, cut_in_training, training_arguments

    processes, is_sft = num_processes(), config.method == "sft"
    arguments = training_arguments(config, anywhere=True)
    items = min(len(data.train), config.data.max_train_items or len(data.train))
    check_batches_fill(arguments, num_items=items)
    group, repeated = (1, 1) if is_sft else (arguments.num_generations, arguments.num_iterations)
    completions = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * processes
    per_step = completions / group / repeated
    prompts = items * len(config.tasks)
    steps = arguments.max_steps if arguments.max_steps > 0 else int(arguments.num_train_epochs * prompts / per_step)
    asked = steps * per_step
    suite = build_suite(config, data, will_run=False)
    how = "every variant is evaluated" if config.evaluation.all_variants else "one variant of each is evaluated"
    together = data.held_out_products < len(data.held_out)
    products = f" ({data.held_out_products:,} products: {how})" if together else ""
    held_out = min(len(suite.rows_of(task)) for task in config.evaluation_tasks)
    return [
        f"data: {len(data.catalogue):,} items of {config.data.catalogue}: {len(data.train):,} to train on, "
        f"{len(data.held_out):,} held out{products}; {data.incomplete:,} lack {data.needs}, "
        f"{len(data.catalogue.quarantined):,} set aside",
        f"training: {steps:,} steps of {per_step:g} prompts with "
        f"{'their answers' if is_sft else f'{group} completions'} on {processes} "
        f"process{'es' * (processes > 1)}: {asked:,.0f} prompts, {asked / prompts:.1f} epochs; "
        f"{min(1.0, asked / prompts):.0%} of the items are seen".replace("%", " %"),
        f"evaluation: {what_items_show(held_out, products=suite.num_products, confidence=CONFIDENCE)}",
        *doubts(config, data),
        *cut_in_training(config),
    ]
