"""Features as recommenders get them, for every fill, written into the work folder category by category."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.benchmark_data import BenchmarkData, masks
from grpo_mmpc.recbench.cells import save_features
from grpo_mmpc.recbench.features import rows_without_vector
from grpo_mmpc.recbench.fills import FILLS, Fill, Filled, FillInputs, MaskedFeatures, mask_features, named
from grpo_mmpc.recbench.leaks import check_no_truth
from grpo_mmpc.recbench.records import MODALITIES, Flags, Floats, Modality
from grpo_mmpc.recbench.settings import MissingModality, RecBenchSection

COMPLETED = "completed:"
"""Before the name of a completion, as a fill."""
KEPT = "kept the true vector (paper mode)"
_NEVER = "never had it"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """What one policy, or one completed catalogue, says of the items; a modality that it does not fill is absent.

    Made by ``encoded_completion``. An item's vector may be the true one only because the encoder
    made it of the item's own
    completion: ``encoded`` says of which items that holds, and a vector of another item is refused.
    """

    name: str
    vectors: Mapping[Modality, Floats]
    """``[I, D]``, read-only; NaN where there is nothing."""
    encoded: Mapping[Modality, Flags]
    """``[I]``: items whose own title or image was given to the encoder."""
    lacking: Mapping[Modality, Sequence[str | None]]
    """``[I]``: why there is nothing, where that is known."""

    def __post_init__(self) -> None:
        """Refuse vectors that no completion explains."""
        for modality, vectors in self.vectors.items():
            vectors.setflags(write=False)
            unexplained = np.flatnonzero(~rows_without_vector(vectors) & ~self.encoded[modality]).tolist()
            if unexplained:
                raise RecBenchError(
                    f"completion {self.name}: {len(unexplained)} items have a vector of {modality} without a completion that "
                    f"was encoded: {named(unexplained, None)}; make it with encoded_completion"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of what was taken away a fill put something in place of. Items that never had it lost nothing."""

    masked: int
    covered: int
    reasons: dict[str, int]
    """Why not the rest, by reason; they add up to it."""


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
        # Items without a title or image of their own have no truth to take away or to be measured
        # by.
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
            RecBenchError: The true vector of an item that lost it would reach a recommender,
                vectors are not finite, or a completion is asked of items that have nothing left to
                be completed from.
        """
        if completion is not None and missing == "both":
            raise RecBenchError(
                f"completion {completion.name}: an item that lost both its title and its image cannot be completed from "
                "anything; measure completions with missing=[text] or missing=[image]"
            )
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
            coverage[modality] = Coverage(
                masked=int((taken[modality] & ~self._never[modality]).sum()),
                covered=found.covered,
                reasons={reason: count for reason, count in found.reasons.items() if reason != _NEVER},
            )
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
        never = self._never[modality]
        has_completion = np.zeros(num_items, dtype=bool)
        if completion is not None and modality in completion.vectors:
            has_completion = completion.encoded[modality] & ~rows_without_vector(completion.vectors[modality])
        if self._settings.mode == "paper" and completion is not None:
            # The flaw of the official protocol: masked items without a completion keep their true
            # vectors.
            kept = masked[modality].missing & ~has_completion & ~never
            found = _with_reasons(FILLS[fill], never=never, kept=kept)(masked[modality], inputs)
            values = np.where(kept[:, None], self._truth[modality], found.values)
            return replace(found, values=values)
        found = _with_reasons(FILLS[fill], never=never)(masked[modality], inputs)
        # A good completion may have exactly the true vector: encoders overlook case, accents and
        # spaces.
        check_no_truth(found, truth=self._truth[modality], allowed=has_completion)
        return found

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


def _with_reasons(fill: Fill, *, never: Flags, kept: Flags | None = None) -> Fill:
    """The fill, but without an answer for items that never had the modality, and saying of others that they keep the truth.

    The ceiling knows nothing of the former either: filled, they would make a fill better than the
    truth.
    """

    def answer(masked: MaskedFeatures, inputs: FillInputs) -> Any:
        said = fill.answer(masked, inputs)
        reasons = said.reasons.copy()
        if kept is not None:
            for row in np.flatnonzero(kept[masked.missing]):
                reasons[row] = f"{reasons[row]}: {KEPT}"
        reasons[never[masked.missing]] = _NEVER
        return said._replace(reasons=reasons)

    return replace(fill, answer=answer)
