"""The features that recommenders get, for every fill, written into the work folder by category."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from grpo_mmpc.recbench.cells import save_features
from grpo_mmpc.recbench.completions import Completion
from grpo_mmpc.recbench.data import BenchmarkData
from grpo_mmpc.recbench.features import rows_without_vector
from grpo_mmpc.recbench.fills import NEVER, Filled, FillInputs, MaskedFeatures, fill, mask_features
from grpo_mmpc.recbench.leaks import check_no_truth
from grpo_mmpc.recbench.masks import masks
from grpo_mmpc.recbench.records import MODALITIES, Flags, Floats, Modality
from grpo_mmpc.recbench.settings import MissingModality, RecBenchSection

KEPT = "kept the true vector (paper mode)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The masked items that a fill has an answer for; those that never had it do not count."""

    masked: int
    covered: int
    reasons: dict[str, int]
    """The rest by reason; the counts add up to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledFeatures:
    """The names of feature files, and how much was filled in them."""

    files: dict[str, dict[Modality, str | None]]
    """By category; None leaves the modality out."""
    coverage: dict[Modality, Coverage] = field(default_factory=dict)
    """The coverage of the modalities that were taken away."""


@dataclass
class Filling:
    """The fills of one benchmark; rows of missing items are NaN before a fill sees them."""

    settings: RecBenchSection
    data: BenchmarkData
    truth: Mapping[Modality, Floats]
    """See ``true_features``."""
    work: Path
    """The work folder."""

    def __post_init__(self) -> None:
        # Items without a title or image of their own have no truth to take away or to be measured
        # by.
        self._never = {modality: rows_without_vector(values) for modality, values in self.truth.items()}
        self._train = self.data.train()

    def whole(self, *, without: Sequence[Modality] = ()) -> FilledFeatures:
        """Write true features, without whole modalities where asked."""
        values = {
            modality: None if modality in without else np.where(self._never[modality][:, None], 0.0, truth)
            for modality, truth in self.truth.items()
        }
        return FilledFeatures(files=self._save(values))

    def filled(
        self, name: str, *, missing: MissingModality, rate: float, seed: int, completion: Completion | None = None
    ) -> FilledFeatures:
        """Write the features of one fill at one rate.

        Raises:
            RecBenchError: The true vector of an item that lost it would reach a recommender, or
                vectors are not finite.
        """
        taken = masks(self.settings, self.data, missing=missing, rate=rate)
        masked = {
            modality: mask_features(
                truth, missing=self._never[modality] | taken.get(modality, False), item_ids=self.data.item_ids
            )
            for modality, truth in self.truth.items()
        }
        values: dict[Modality, Floats | None] = {}
        coverage: dict[Modality, Coverage] = {}
        for modality in MODALITIES:
            if modality not in taken:
                values[modality] = np.where(self._never[modality][:, None], 0.0, self.truth[modality])
                continue
            filled = self._fill(name, modality, masked, seed=seed, completion=completion)
            values[modality] = filled.values
            coverage[modality] = Coverage(
                masked=int((taken[modality] & ~self._never[modality]).sum()),
                covered=filled.covered,
                reasons={reason: count for reason, count in filled.reasons.items() if reason != NEVER},
            )
        return FilledFeatures(files=self._save(values), coverage=coverage)

    def _fill(
        self,
        name: str,
        modality: Modality,
        masked: Mapping[Modality, MaskedFeatures],
        *,
        seed: int,
        completion: Completion | None,
    ) -> Filled:
        never = self._never[modality]
        has_completion = np.zeros(len(never), dtype=bool)
        completed: Floats | None = None
        lacking: list[str | None] | None = None
        kept: Flags | None = None
        if completion is not None:
            completed = np.full_like(self.truth[modality], np.nan)
            lacking = ["not completed"] * len(never)
            if modality in completion.vectors:
                completed = completion.vectors[modality]
                lacking = list(completion.lacking.get(modality) or ["no completion"] * len(never))
                has_completion = ~rows_without_vector(completed)
            if self.settings.mode == "paper":
                # The flaw of the official protocol: masked items without a completion keep their
                # true vectors.
                kept = masked[modality].missing & ~has_completion & ~never
                for row in np.flatnonzero(kept):
                    lacking[row] = f"{lacking[row] or 'its completion has no vector'}: {KEPT}"
        inputs = FillInputs(
            seed=seed,
            groups=self.data.groups["category"],
            other=masked["image" if modality == "text" else "text"],
            train=self._train,
            completed=completed,
            lacking=lacking,
            never=never,
        )
        filled = fill(name, masked[modality], inputs)
        if kept is not None:
            return replace(filled, values=np.where(kept[:, None], self.truth[modality], filled.values))
        # A good completion may have exactly the true vector: encoders overlook case, accents and
        # spaces.
        check_no_truth(filled, truth=self.truth[modality], allowed=has_completion)
        return filled

    def _save(self, values: Mapping[Modality, Floats | None]) -> dict[str, dict[Modality, str | None]]:
        return {
            category.name: {
                modality: save_features(self.work, rows[category.rows])
                if rows is not None and modality in self.settings.modalities
                else None
                for modality, rows in values.items()
            }
            for category in self.data.categories
        }
