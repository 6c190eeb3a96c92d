"""Completions as features: titles and images that stand for what was taken away, encoded like the true ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.benchmark_data import BenchmarkData, widest_masks
from grpo_mmpc.recbench.completed import MARK, Completions, completed_images, completed_titles
from grpo_mmpc.recbench.features import image_features, rows_without_vector, text_features
from grpo_mmpc.recbench.filled_features import Completion
from grpo_mmpc.recbench.records import MODALITIES, MODALITY_WORDS, Flags, Floats, Modality
from grpo_mmpc.recbench.settings import RecBenchSection
from grpo_mmpc.utils.console import Progress, Say

UNREADABLE = "its image cannot be read"


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
        RecBenchError: A catalogue holds none of the items, or all that was read of it is the
            original.
    """
    masks = {
        # What an item never had was not taken away from it.
        modality: mask & np.array([value is not None for value in _truth(data, modality)], dtype=bool)
        for modality, mask in widest_masks(settings, data).items()
    }
    return [
        _of_catalogue(settings, name, folder, data, masks, say=say, progress=progress) for name, folder in named.items()
    ]


def _of_catalogue(
    settings: RecBenchSection,
    name: str,
    folder: Path,
    data: BenchmarkData,
    masks: Mapping[Modality, Flags],
    *,
    say: Say,
    progress: Progress | None,
) -> Completion:
    found: dict[Modality, Completions[Any]] = {}
    for modality, missing in masks.items():
        found[modality] = (
            completed_titles(folder, item_ids=data.item_ids, missing=missing, truth=data.titles)
            if modality == "text"
            else completed_images(folder, item_ids=data.item_ids, missing=missing, truth=data.image_paths)
        )
    originals = {modality: why for modality, read in found.items() if (why := read.looks_original) is not None}
    if originals and len(originals) == len(found):
        raise RecBenchError(
            f"{folder}: {' and '.join(originals.values())}: it looks like the original catalogue; give the completed one. If "
            f"these are completions, say so: a column {MARK} names the field (title, image) for each item that was filled"
        )
    for modality, read in found.items():
        say(f"{name}: {_told(read, modality, num_missing=int(masks[modality].sum()))}")
    # One of which only the original is there (titles were completed, images are what they were) is
    # not completed.
    given = {modality: read.values for modality, read in found.items() if modality not in originals}
    return encoded_completion(
        settings,
        name,
        texts=given.get("text"),
        images=given.get("image"),
        lacking={modality: read.lacking for modality, read in found.items()},
        progress=progress,
    )


def _truth(data: BenchmarkData, modality: Modality) -> Sequence[str | Path | None]:
    return data.titles if modality == "text" else data.image_paths


def _told(read: Completions[Any], modality: Modality, *, num_missing: int) -> str:
    """What a completed catalogue holds of one modality, on one line."""
    counts = read.counts()
    parts = [f"{counts['completed']:,} of {num_missing:,} missing {MODALITY_WORDS[modality]} completed"]
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
    progress: Progress | None = None,
) -> Completion:
    """Encode completions with the encoders of the benchmark.

    Args:
        settings: Name the encoders.
        name: Of the completion.
        texts: ``[I]``, None where there is none; None altogether if no text was completed.
        images: The same of images.
        lacking: By modality, why there is none.
        progress: Shown while encoding.
    """
    vectors: dict[Modality, Floats] = {}
    encoded: dict[Modality, Flags] = {}
    reasons = {modality: list(lacking[modality]) for modality in MODALITIES if modality in lacking}
    if texts is not None:
        vectors["text"] = text_features(texts, progress=progress, **settings.encoders.text.model_dump())
        encoded["text"] = np.array([text is not None for text in texts], dtype=bool)
    if images is not None:
        vectors["image"] = image_features(
            images, mode=settings.mode, progress=progress, **settings.encoders.image.model_dump()
        ).values
        encoded["image"] = np.array([image is not None for image in images], dtype=bool)
        for row in np.flatnonzero(encoded["image"] & rows_without_vector(vectors["image"])):
            reasons["image"][row] = UNREADABLE
    return Completion(name=name, vectors=vectors, encoded=encoded, lacking=reasons)
