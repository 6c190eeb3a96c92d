"""The plan of a benchmark: its groups, methods and cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import cycle, product

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.cells import RecommenderCell
from grpo_mmpc.recbench.completions import COMPLETED, Completion
from grpo_mmpc.recbench.data import BenchmarkData
from grpo_mmpc.recbench.filled_features import Coverage, FilledFeatures, Filling
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import MODALITIES, Modality, TrainingSettings
from grpo_mmpc.recbench.settings import MissingModality, RecBenchSection

RANDOM_FILLS = ("random_paper", "random_matched")
NO_MISSING, DROP_MODALITY, ID_ONLY = "no_missing", "drop_modality", "id_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method, compared with others of its group: a fill, or a recommender without features."""

    name: str
    cells: dict[int, dict[str, RecommenderCell]]
    """By seed and category."""
    coverage: dict[Modality, Coverage]
    """The rate and modality that were taken away; empty where nothing is put in its place: the
    ceiling, models without features, floors."""

    @property
    def every_cell(self) -> list[RecommenderCell]:
        """The cells of all seeds and categories."""
        return [cell for by_category in self.cells.values() for cell in by_category.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A recommender, a modality taken away and a rate: within it methods can be compared.

    Where no recommender gets features there is nothing to take away: one group, its
    recommender and missing modality empty, its rate 0.
    """

    recommender: str
    missing: str
    rate: float
    methods: list[Method]

    @property
    def cells(self) -> list[RecommenderCell]:
        """The cells of all methods; those that two methods share come twice."""
        return [cell for method in self.methods for cell in method.every_cell]


def plan(
    settings: RecBenchSection,
    data: BenchmarkData,
    filling: Filling,
    completions: Sequence[Completion],
    *,
    splits: Mapping[str, str],
    show: Callable[[int, int], None],
) -> list[Group]:
    """Write the features of every fill, and name all cells.

    ``completions`` stand for the fill ``completed``; ``splits`` names each category's split in the
    work folder; ``show`` is called with (rates planned, rates in all), of every modality.

    Raises:
        RecBenchError: A recommender has nothing to be compared on, see ``problems``.
    """
    with_features: list[str] = [name for name in settings.recommenders if RECOMMENDERS[name].uses_features]
    floors = [name for name in settings.recommenders if name not in with_features]
    names = [completion.name for completion in completions]
    if found := problems(settings, completed=names):
        raise RecBenchError("; ".join(found))
    fills = fill_names(settings, names)
    groups: list[Group] = []
    total = len(settings.missing) * len(settings.rates)

    def cells(name: str, features: Mapping[int, FilledFeatures]) -> dict[int, dict[str, RecommenderCell]]:
        return {
            seed: {
                category: _cell(settings, name, category, splits[category], files, seed=seed)
                for category, files in features[seed].files.items()
            }
            for seed in settings.seeds
        }

    nothing = dict.fromkeys(settings.seeds, filling.whole(without=MODALITIES))
    shared = [Method(name=name, cells=cells(name, nothing), coverage={}) for name in floors]
    if not with_features:
        return [Group(recommender="", missing="", rate=0.0, methods=shared)]
    for done, (missing, rate) in enumerate(product(settings.missing, settings.rates)):
        show(done, total)
        features: dict[str, dict[int, FilledFeatures]] = {}
        for fill in fills:
            if missing == "both" and fill.startswith(COMPLETED):
                continue  # an item without title and image cannot be completed from anything
            seeds = settings.seeds if fill in RANDOM_FILLS else settings.seeds[:1]  # the others do not differ by seed
            made = [_features(filling, fill, completions, missing=missing, rate=rate, seed=seed) for seed in seeds]
            features[fill] = dict(zip(settings.seeds, cycle(made), strict=False))
        for name in with_features:
            methods = [
                Method(name=fill, cells=cells(name, by_seed), coverage=by_seed[settings.seeds[0]].coverage)
                for fill, by_seed in features.items()
                if not (name == "mmgcn" and _tells_nothing(by_seed[settings.seeds[0]]))
            ]
            groups.append(Group(recommender=name, missing=missing, rate=rate, methods=methods + shared))
    show(total, total)
    return groups


def problems(settings: RecBenchSection, *, completed: Sequence[str]) -> list[str]:
    """Say which recommenders would have nothing to be compared on, given names of completions."""
    fills, shown = fill_names(settings, completed), f"fills is [{', '.join(settings.fills)}]"
    found = []
    for name, missing in product(settings.recommenders, settings.missing):
        usable = [fill for fill in fills if not (missing == "both" and fill.startswith(COMPLETED))]
        why = "items that lose title and image at once (missing: both) cannot be completed"
        if not RECOMMENDERS[name].uses_features:
            continue
        if not fills:
            why = "no completed catalogue is there; give one with --completed"
        elif usable and name == "mmgcn":
            why = "mmgcn cannot be trained without any features"
            rest = {*settings.modalities} - {*_taken(missing)}
            usable = [fill for fill in usable if fill != ID_ONLY and (rest or fill != DROP_MODALITY)]
        if not usable:
            found.append(f"nothing to compare {name} on: {shown}, and {why}; or name other fills")
    return list(dict.fromkeys(found))


def fill_names(settings: RecBenchSection, completed: Sequence[str]) -> list[str]:
    """Return the fills of the settings, with the named completions in place of ``completed``."""
    named = [f"{COMPLETED}{name}" for name in completed]
    return [name for fill in settings.fills for name in (named if fill == "completed" else [fill])]


def _features(
    filling: Filling, fill: str, completions: Sequence[Completion], *, missing: MissingModality, rate: float, seed: int
) -> FilledFeatures:
    if fill == NO_MISSING:
        return filling.whole()
    if fill == ID_ONLY:
        return filling.whole(without=MODALITIES)
    if fill == DROP_MODALITY:
        return filling.whole(without=_taken(missing))
    if fill.startswith(COMPLETED):
        completion = next(one for one in completions if f"{COMPLETED}{one.name}" == fill)
        return filling.filled("completed", missing=missing, rate=rate, seed=seed, completion=completion)
    return filling.filled(fill, missing=missing, rate=rate, seed=seed)


def _taken(missing: MissingModality) -> tuple[Modality, ...]:
    return MODALITIES if missing == "both" else (missing,)


def _tells_nothing(features: FilledFeatures) -> bool:
    return all(name is None for files in features.files.values() for name in files.values())


def _cell(
    settings: RecBenchSection, name: str, category: str, split: str, files: Mapping[Modality, str | None], *, seed: int
) -> RecommenderCell:
    spec, section = RECOMMENDERS[name], settings.training
    if spec.without_features is not None and not any(files.values()):
        spec = RECOMMENDERS[spec.without_features]
    return RecommenderCell(
        category=category,
        recommender=spec.name,
        split=split,
        text=files["text"],
        image=files["image"],
        seed=seed,
        mode=settings.mode,
        grid=tuple(spec.combinations()) if section.grid == "published" else (dict(spec.defaults),),
        training=TrainingSettings(**{one.name: getattr(section, one.name) for one in fields(TrainingSettings)}),
    )
