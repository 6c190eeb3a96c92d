"""The toolkit from Python: the functions behind ``from grpo_mmpc import ...``.

Each does what the command of the same name does, prints what it prints, and returns the result
instead of an exit status.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_mmpc.config import RunConfig
    from grpo_mmpc.evaluation.records import Comparison
    from grpo_mmpc.evaluation.run_folder import RunFolder
    from grpo_mmpc.evaluation.score import Scores

Place = Path | str


def load_config(*recipe: Place) -> "RunConfig":
    """Load and check a recipe.

    Args:
        *recipe: YAML files, merged left to right, and ``key=value`` overrides, as on the command
            line: ``load_config("recipes/nano.yaml", "trainer.max_steps=10")``.

    Raises:
        ConfigError: With all problems of the recipe.
    """
    from grpo_mmpc.pipelines.recipe import load_recipe

    return load_recipe([str(part) for part in recipe])


def train(config: "RunConfig", *, overwrite: bool = False) -> "RunFolder":
    """Align a policy, evaluating before, after each checkpoint, and at the end.

    Continues the run that ``config.run_dir`` holds, or finishes what it lacks.

    Args:
        config: The recipe.
        overwrite: Delete what an earlier run left there.

    Returns:
        The run folder, to be read.

    Raises:
        KeyboardInterrupt: The run was interrupted; called again, it goes on.
        GrpoMmpcError: The run cannot start or go on; says why.
    """
    from grpo_mmpc.evaluation.run_folder import RunFolder
    from grpo_mmpc.pipelines.train import STOPPED, run_training

    if run_training(config, overwrite=overwrite) in STOPPED:
        raise KeyboardInterrupt(f"{config.run_dir} was interrupted; the same call continues it")
    return RunFolder(Path(config.run_dir))


def evaluate(
    config: "RunConfig", *, checkpoint: Place | None = None, out: Place | None = None, workers: int | None = 1
) -> Path:
    """Evaluate the base model or an adapter on the recipe's held-out items, with its controls.

    Args:
        config: The recipe.
        checkpoint: Folder with ``adapter_config.json``; None evaluates the policy before training,
            the base model or ``model.init_from``.
        out: Where to write; None takes ``RUN_DIR/evaluations/NAME/SUITE``.
        workers: Engines at once; None is one a device. Several start processes: a script has the
            call below ``if __name__ == "__main__":`` then.

    Returns:
        The folder with ``samples.parquet`` and ``summary.json``.

    Raises:
        GrpoMmpcError: The checkpoint, the catalogue or the policy cannot be read; says why.
    """
    from grpo_mmpc.pipelines.evaluate import run_evaluation

    adapter, folder = (None if place is None else Path(place) for place in (checkpoint, out))
    return run_evaluation(config, checkpoint=adapter, out=folder, workers=workers)


def compare(
    before: Place, *others: Place, resamples: int = 10_000, confidence: float = 0.95, by_category: bool = True
) -> "list[Comparison]":
    """Compare evaluations of one suite, paired by item.

    Args:
        before: Evaluation folder.
        *others: Evaluation folders; each is compared with ``before``, and all are corrected
            together.
        resamples: Bootstrap resamples.
        confidence: Of every interval; 1 minus it is the level of the verdicts.
        by_category: Also compare each category.

    Raises:
        EvaluationError: Two of them cannot be compared; says why.
    """
    from grpo_mmpc.evaluation.comparison import compare_evaluations

    return compare_evaluations(
        Path(before),
        [Path(other) for other in others],
        resamples=resamples,
        confidence=confidence,
        by_category=by_category,
    )


def complete(
    config: "RunConfig",
    catalogue: Place,
    *,
    out: Place,
    checkpoint: Place | None = None,
    workers: int | None = 1,
    siblings: bool = True,
    samples: int = 0,
    calibrate_on: int = 0,
    overwrite: bool = False,
) -> Path:
    """Fill the missing titles and images of a whole catalogue.

    Args:
        config: The recipe: policy, engine and renderer.
        catalogue: Catalogue folder.
        out: Folder of the completed catalogue; started again, it goes on there.
        checkpoint: Folder with ``adapter_config.json``; None completes with the policy before
            training.
        workers: As of ``evaluate``.
        siblings: First take titles that variants, equal images or the item's other fields give.
        samples: Titles to sample beside each greedy one; the share that agrees is the confidence.
        calibrate_on: Items with a known title, at most, that tell what that confidence is worth.
        overwrite: Take over the completion by another policy; all items are asked again.

    Returns:
        ``out``.

    Raises:
        CatalogueError: The catalogue cannot be read, or ``out`` holds something else.
    """
    from grpo_mmpc.pipelines.complete import Workers, complete_catalogue

    adapter = None if checkpoint is None else Path(checkpoint)
    complete_catalogue(
        config,
        catalogue=Path(catalogue),
        out=Path(out),
        checkpoint=adapter,
        workers=Workers(count=workers),
        siblings=siblings,
        samples=samples,
        calibrate_on=calibrate_on,
        overwrite=overwrite,
    )
    return Path(out)


def score(
    predictions: Mapping[str, str | None],
    references: Mapping[str, str | Sequence[str]],
    *,
    metrics: Sequence[str] | None = None,
    mode: str = "corrected",
    encoders: Mapping[str, Mapping[str, Any]] | None = None,
) -> "Scores":
    """Score anybody's titles against the true ones.

    Args:
        predictions: Title by item id; None is a malformed answer, the worst one.
        references: True title by item id, or several that are all right. One without a prediction
            counts as malformed.
        metrics: Names; None takes all metrics of titles.
        mode: ``corrected``, or ``paper`` with the official benchmark's flaws.
        encoders: Arguments by encoder, for instance ``{"bertscore": {"model": "nano:minilm",
            "num_layers": 6}}``; published models otherwise.

    Raises:
        EvaluationError: A metric is unknown, or no item has both sides.
    """
    from grpo_mmpc.evaluation.predictions import Prediction, Predictions, Reference
    from grpo_mmpc.evaluation.score import choose_metrics, score_predictions
    from grpo_mmpc.evaluation.scorers import scorers_for

    by_item = {item: Prediction(item_id=item, prediction=text) for item, text in predictions.items()}
    answers = Predictions(source=Path("predictions"), by_item=by_item)
    accepted = {item: [text] if isinstance(text, str) else list(text) for item, text in references.items()}
    known = [Reference(item_id=item, text=next(iter(texts), None), more=texts[1:]) for item, texts in accepted.items()]
    task = "image_to_text"
    chosen = choose_metrics(metrics, task=task, mode=mode, references=known, answers=answers)
    scorers = scorers_for(chosen, options=encoders or {})
    return score_predictions(answers, known, task=task, mode=mode, metrics=chosen, scorers=scorers)
