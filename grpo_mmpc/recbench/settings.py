"""The settings of the recommendation benchmark."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grpo_mmpc.catalogue.interactions import interactions_problem
from grpo_mmpc.config import schema_problems
from grpo_mmpc.config.section import Section
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import MODALITIES, Modality, Mode
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.utils.sections import section

RecommenderName = Literal["vbpr", "bm3", "freedom", "mmgcn", "lightgcn", "bpr", "most_popular", "random"]
FillName = Literal[
    "no_missing",
    "zeros",
    "mean",
    "category_mean",
    "random_paper",
    "random_matched",
    "nearest_neighbour",
    "feature_propagation",
    "drop_modality",
    "id_only",
    "completed",
]
MissingModality = Literal["text", "image", "both"]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


MIN_PER_USER = 3
"""Fewest interactions of a user: one to train on, one to validate and one to test."""


class InteractionsSection(Section):
    """The choice of interactions, and how each user's are split in time."""

    min_rating: float | None = None
    """Keep interactions of at least this rating; null keeps all. Interactions without a rating are
    kept."""
    min_per_user: Annotated[int, Field(ge=MIN_PER_USER)] = 8
    min_per_item: Count = 1
    """Both are enforced until nothing changes (k-core)."""
    max_per_user: Count | None = None
    """A user's first so many interactions in time; null keeps all."""
    split: Literal["chronological", "leave_one_out"] = "chronological"

    @model_validator(mode="after")
    def _satisfiable(self) -> "InteractionsSection":
        if self.max_per_user is not None and self.max_per_user < self.min_per_user:
            raise ValueError(
                f"max_per_user is {self.max_per_user}, below min_per_user {self.min_per_user}: no user could have "
                "both; raise the first or lower the second"
            )
        return self


class RecommenderTrainingSection(Section):
    """The training of recommenders; the defaults are those of the published protocol."""

    max_epochs: Count = 1000
    patience: Count = 20
    """Evaluations without a better validation Recall@20 before training ends."""
    batch_size: Count = 2048
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    grid: Literal["published", "single"] = "single"
    """``published``: every point of a recommender's grid is trained and the best on validation is
    tested; ``single``: one."""
    device: str | None = None
    """Null takes GPUs where there are any; beside a policy that is being trained, the CPU."""
    parallel: Count | None = None
    """Recommenders that are trained at once on this machine; null as many as GPUs, or as cores
    without one."""


class TextEncoderSection(Section):
    """The encoder of titles."""

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """A mean-pooling sentence encoder: hub name, local folder or ``nano:minilm``."""
    device: str | None = None
    """Null takes a GPU where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class ImageEncoderSection(TextEncoderSection):
    """The encoder of images."""

    model: str = "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
    """A timm checkpoint: hub name or local folder; or ``nano:clip``."""


class FeatureEncodersSection(Section):
    """The encoders of titles and images."""

    text: TextEncoderSection = TextEncoderSection()
    image: ImageEncoderSection = ImageEncoderSection()


class RecBenchSection(Section):
    """The recommendation benchmark; by default one recommender, one rate and few seeds."""

    mode: Mode = "corrected"
    """``paper`` reproduces the official protocol, its flaws included."""
    categories: Annotated[list[str], Field(min_length=1)] | None = None
    """Null means all of the catalogue; each is a benchmark of its own."""
    interactions: InteractionsSection = InteractionsSection()
    recommenders: Annotated[list[RecommenderName], Field(min_length=1)] = ["vbpr"]
    modalities: Annotated[list[Literal["text", "image"]], Field(min_length=1)] = ["text", "image"]
    """The features that recommenders get at all. One alone shows what it is worth without the
    other."""
    missing: Annotated[list[MissingModality], Field(min_length=1)] = ["text"]
    """The modality that is taken away."""
    rates: Annotated[list[Share], Field(min_length=1)] = [1.0]
    """Shares of the items that lose it; an item missing at one rate is missing at every higher
    one."""
    clustered_by: Literal["category", "brand"] | None = None
    """Take it away from whole categories or brands; null takes single items."""
    fills: Annotated[list[FillName], Field(min_length=1)] = ["no_missing", "zeros", "mean", "id_only", "completed"]
    """The imputation methods to compare; ``no_missing`` is the ceiling, ``completed`` whatever
    catalogues are given."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0, 1, 2]
    encoders: FeatureEncodersSection = FeatureEncodersSection()
    training: RecommenderTrainingSection = RecommenderTrainingSection()
    resamples: Annotated[int, Field(ge=100)] = 10_000
    """Bootstrap resamples of users."""
    salt: str = "recbench"
    """Changing it takes other items away."""

    @property
    def encoded(self) -> list[Modality]:
        """The modalities whose features are needed, be it to find neighbours by."""
        if not any(RECOMMENDERS[name].uses_features for name in self.recommenders):
            return []
        return [one for one in MODALITIES if one in self.modalities or "nearest_neighbour" in self.fills]

    @model_validator(mode="after")
    def _consistent(self) -> "RecBenchSection":
        for name in ("categories", "recommenders", "modalities", "missing", "rates", "fills", "seeds"):
            values = getattr(self, name)
            if values is not None and len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice: {values}")
        if self.mode == "paper":
            own: list[str] = [name for name in ("clustered_by", "salt") if name in self.model_fields_set]
            own += [f"interactions.{name}" for name in sorted(self.interactions.model_fields_set - {"split"})]
            if own:
                raise ValueError(
                    f"paper mode has a mask and a filter of interactions of its own, so that {', '.join(own)} would "
                    "have no effect: remove it"
                )
        for taken in self.missing:
            if len(self.modalities) == 1 and taken not in self.modalities:
                raise ValueError(
                    f"missing is {taken!r}, but recommenders get {self.modalities[0]!r} features only: taking the "
                    "other away changes nothing; add it to modalities"
                )
        return self


def check_section(raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Explain what is wrong with ``evaluation.recbench`` of a recipe, as (dotted key, message)."""
    own = section(raw, "evaluation").get("recbench")
    if not isinstance(own, Mapping):
        return
    yield from schema_problems(own, RecBenchSection, key="evaluation.recbench")
    catalogue = str(section(raw, "data").get("catalogue", ""))
    if catalogue and Path(catalogue).is_dir() and (problem := interactions_problem(Path(catalogue))):
        yield "evaluation.recbench", f"{problem}, or remove evaluation.recbench"
    tasks = raw.get("tasks", [*TASKS])
    if isinstance(tasks, list) and tasks and not {*map(str, tasks)} & {*TASKS}:
        yield (
            "evaluation.recbench",
            f"completes items by {' and '.join(TASKS)}, and this policy is for {', '.join(map(str, tasks))}: remove "
            "it, or add one of the two to tasks",
        )
