"""Features as recommenders get them, for every fill, written into the work folder category by category."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from grpo_mmpc.config import RecBenchSection
from grpo_mmpc.config.recbench import MissingModality
from grpo_mmpc.recbench.benchmark_data import BenchmarkData, masks
from grpo_mmpc.recbench.cells import save_features
from grpo_mmpc.recbench.features import rows_without_vector
from grpo_mmpc.recbench.fills import FILLS, Filled, FillInputs, MaskedFeatures, mask_features
from grpo_mmpc.recbench.leaks import check_no_truth
from grpo_mmpc.recbench.records import MODALITIES, Flags, Floats, Modality

COMPLETED = "completed:"
"""Before the name of a completion, as a fill."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """What one policy, or one completed catalogue, says of the items; a modality that it does not fill is absent."""

    name: str
    vectors: Mapping[Modality, Floats]
    """``[I, D]``; NaN where there is nothing."""
    lacking: Mapping[Modality, Sequence[str | None]]
    """``[I]``: why there is nothing, where that is known."""
    exact: Mapping[Modality, Flags]
    """``[I]``: the completion is, letter for letter, what was taken away: its vector is the true one by right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of what was taken away a fill put something in place of."""

    masked: int
    covered: int
    reasons: dict[str, int]
    """Why not the rest, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledFeatures:
    """Names of feature files, and what stands in them."""

    files: dict[str, dict[Modality, str | None]]
    """By category; None leaves the modality out."""
    coverage: dict[Modality, Coverage] = field(default_factory=dict)
    """Of the modalities that were taken away."""


class Filling:
    """Fills of one benchmark. A fill never sees what it fills: rows of missing items are NaN before it is called."""

    def __init__(
        self, settings: RecBenchSection, data: BenchmarkData, truth: Mapping[Modality, Floats], *, work: Path
    ) -> None:
        """Keep references.

        Args:
            settings: Of the benchmark.
            data: Its items.
            truth: See ``true_features``.
            work: Work folder.
        """
        self._settings = settings
        self._data = data
        self._truth = truth
        self._work = work
        # Items without a title or image of their own have no truth to take away or to be measured by.
        self._never = {modality: rows_without_vector(values) for modality, values in truth.items()}
        self._train = data.train()

    def whole(self, *, without: Sequence[Modality] = ()) -> FilledFeatures:
        """Nothing taken away but whole modalities."""
        values = {
            modality: None if modality in without else np.where(self._never[modality][:, None], 0.0, truth)
            for modality, truth in self._truth.items()
        }
        return FilledFeatures(files=self._save(values))

    def filled(
        self, fill: str, *, missing: MissingModality, rate: float, seed: int, completion: Completion | None = None
    ) -> FilledFeatures:
        """One fill at one rate.

        Args:
            fill: Name in ``FILLS``.
            missing: What is taken away.
            rate: From how many.
            seed: Of random fills.
            completion: For the fill ``completed``.

        Raises:
            RecBenchError: The true vector of an item that lost it would reach a recommender, or vectors are not finite.
        """
        taken = masks(self._settings, self._data, missing=missing, rate=rate)
        masked = {
            modality: mask_features(
                truth, missing=self._never[modality] | taken.get(modality, False), item_ids=self._data.item_ids
            )
            for modality, truth in self._truth.items()
        }
        values: dict[Modality, Floats | None] = {}
        coverage: dict[Modality, Coverage] = {}
        for modality in MODALITIES:
            if modality not in taken:
                values[modality] = np.where(self._never[modality][:, None], 0.0, self._truth[modality])
                continue
            found = self._fill(fill, modality, masked, seed=seed, completion=completion)
            values[modality] = found.values
            coverage[modality] = Coverage(masked=int(found.missing.sum()), covered=found.covered, reasons=found.reasons)
        return FilledFeatures(files=self._save(values), coverage=coverage)

    def _fill(
        self,
        fill: str,
        modality: Modality,
        masked: Mapping[Modality, MaskedFeatures],
        *,
        seed: int,
        completion: Completion | None,
    ) -> Filled:
        other: Modality = "image" if modality == "text" else "text"
        num_items = len(self._data.item_ids)
        inputs = FillInputs(
            seed=seed,
            groups=self._data.groups["category"],
            other=masked[other],
            train=self._train,
            completed=completion.vectors.get(modality) if completion else None,
            lacking=completion.lacking.get(modality) if completion else None,
        )
        if completion is not None and inputs.completed is None:
            nothing = np.full_like(self._truth[modality], np.nan)
            inputs = replace(inputs, completed=nothing, lacking=["not completed"] * num_items)
        found = FILLS[fill](masked[modality], inputs)
        if self._settings.mode == "paper" and completion is not None and inputs.completed is not None:
            return self._with_the_leak(found, modality, ~rows_without_vector(inputs.completed))
        exact = completion.exact.get(modality) if completion else None
        allowed = np.zeros(num_items, dtype=bool) if exact is None else exact
        check_no_truth(found, truth=self._truth[modality], allowed=allowed | self._never[modality])
        return found

    def _with_the_leak(self, found: Filled, modality: Modality, has_completion: Flags) -> Filled:
        """The flaw of the official protocol: masked items without a completion keep their true vectors."""
        kept = found.missing & ~has_completion & ~self._never[modality]
        values = found.values.copy()
        values[kept] = self._truth[modality][kept]
        reasons = {**found.reasons, "kept its true vector (paper mode)": int(kept.sum())}
        return replace(found, values=values, reasons={name: count for name, count in reasons.items() if count})

    def _save(self, values: Mapping[Modality, Floats | None]) -> dict[str, dict[Modality, str | None]]:
        return {
            category.name: {
                modality: save_features(self._work, rows[category.rows])
                if rows is not None and modality in self._settings.modalities
                else None
                for modality, rows in values.items()
            }
            for category in self._data.categories
        }
