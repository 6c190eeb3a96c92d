"""Completions as features: titles and images that stand for what was taken away, encoded like the true ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grpo_mmpc.config import RecBenchSection
from grpo_mmpc.console import Progress, Say
from grpo_mmpc.recbench.benchmark_data import BenchmarkData, widest_masks
from grpo_mmpc.recbench.completed import Completions, completed_images, completed_titles
from grpo_mmpc.recbench.features import image_features, rows_without_vector, text_features
from grpo_mmpc.recbench.filled_features import Completion
from grpo_mmpc.recbench.records import MODALITIES, Flags, Floats, Modality

UNREADABLE = "its image cannot be read"
_WORDS = {"text": "titles", "image": "images"}


def completions_of_catalogues(
    settings: RecBenchSection,
    named: Mapping[str, Path],
    data: BenchmarkData,
    *,
    say: Say,
    progress: Progress | None = None,
) -> list[Completion]:
    """What completed catalogues hold for the items that lose something.

    Args:
        settings: Of the benchmark.
        named: Catalogue folders by name.
        data: The benchmark's items.
        say: Prints what each catalogue holds and lacks.
        progress: Shown while encoding.

    Raises:
        RecBenchError: A catalogue holds none of the items, or is the original one.
    """
    found = []
    masks = widest_masks(settings, data)
    for name, folder in named.items():
        texts: Sequence[str | None] | None = None
        images: Sequence[Path | None] | None = None
        lacking: dict[Modality, Sequence[str | None]] = {}
        exact: dict[Modality, Flags] = {}
        for modality, missing in masks.items():
            read = (
                completed_titles(folder, item_ids=data.item_ids, missing=missing, truth=data.titles)
                if modality == "text"
                else completed_images(folder, item_ids=data.item_ids, missing=missing, truth=data.image_paths)
            )
            lacking[modality], exact[modality] = read.lacking, read.equals_truth
            if modality == "text":
                texts = [value if isinstance(value, str) else None for value in read.values]
            else:
                images = [value if isinstance(value, Path) else None for value in read.values]
            say(f"{name}: {_told(read, modality, num_missing=int(missing.sum()))}")
        found.append(
            encoded_completion(
                settings, name, texts=texts, images=images, lacking=lacking, exact=exact, progress=progress
            )
        )
    return found


def _told(read: Completions[Any], modality: Modality, *, num_missing: int) -> str:
    """What a completed catalogue holds of one modality, on one line."""
    counts = read.counts()
    parts = [f"{counts['completed']:,} of {num_missing:,} missing {_WORDS[modality]} completed"]
    parts += [f"{count:,} not, because {reason}" for reason, count in counts["lacking"].items()]
    if counts["equal_to_the_truth"]:
        parts.append(f"{counts['equal_to_the_truth']:,} exactly as they were")
    if counts["extra_items"]:
        parts.append(f"{counts['extra_items']:,} more in the folder, which the benchmark does not rank")
    return "; ".join(parts)


def encoded_completion(
    settings: RecBenchSection,
    name: str,
    *,
    texts: Sequence[str | None] | None,
    images: Sequence[Path | None] | None,
    lacking: Mapping[Modality, Sequence[str | None]],
    exact: Mapping[Modality, Flags],
    progress: Progress | None = None,
) -> Completion:
    """Encode completions with the encoders of the benchmark.

    Args:
        settings: Name the encoders.
        name: Of the completion.
        texts: ``[I]``, None where there is none; None altogether if no text was completed.
        images: The same of images.
        lacking: By modality, why there is none.
        exact: By modality, completions that are the truth letter for letter.
        progress: Shown while encoding.
    """
    vectors: dict[Modality, Floats] = {}
    reasons = {modality: list(lacking[modality]) for modality in MODALITIES if modality in lacking}
    if texts is not None:
        vectors["text"] = text_features(texts, progress=progress, **settings.encoders.text)
    if images is not None:
        encoded = image_features(images, mode=settings.mode, progress=progress, **settings.encoders.image)
        vectors["image"] = encoded.values
        for row in np.flatnonzero(rows_without_vector(encoded.values)):
            if images[row] is not None:
                reasons["image"][row] = UNREADABLE
    return Completion(name=name, vectors=vectors, lacking=reasons, exact=exact)
