"""The table of recommenders, with the hyper-parameters that are tried for each.

Their modules are imported when one is built: a list of names should not cost the import of PyTorch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any

from grpo_mmpc.recbench.records import ItemFeatures, Mode, Split

if TYPE_CHECKING:
    from grpo_mmpc.recbench.recommenders.recommender import Recommender


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommenderSpec:
    """The entry of one recommender."""

    name: str
    factory: str
    """``module:name`` of what builds it, behind this package."""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values that are tried on the validation part, all combinations."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values where nothing is tried; those that the grid does not name always hold."""
    uses_features: bool = True
    is_trained: bool = True
    """False for floors, which have nothing to learn."""
    paper_factory: str = ""
    """What builds it in paper mode, where that is something else."""
    paper_options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of it in paper mode."""
    without_features: str | None = None
    """The recommender that it is where it gets no features, the same to the bit: it is trained
    once, under that name."""

    def build(self, split: Split, features: ItemFeatures, *, mode: Mode = "corrected", **options: Any) -> "Recommender":
        """Build the recommender; see ``Recommender`` for its options."""
        is_paper = mode == "paper"
        module, _, name = (self.paper_factory if is_paper and self.paper_factory else self.factory).partition(":")
        factory = getattr(import_module(f"grpo_mmpc.recbench.recommenders.{module}"), name)
        options |= self.paper_options if is_paper else {}
        built: Recommender = factory(split, features if self.uses_features else ItemFeatures(), **options)
        return built

    def combinations(self) -> list[dict[str, Any]]:
        """Return every point of the grid, with the defaults that it leaves alone."""
        return [
            {**self.defaults, **dict(zip(self.grid, values, strict=True))} for values in product(*self.grid.values())
        ]


_L2 = (2.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)

# Values that the published run scripts try (the papers, for those they do not run); what a grid
# does not name is under defaults. A value need not weigh what it weighs there: regularisers of vbpr
# are squared lengths over the batch size, as in the paper, and in paper mode unsquared norms of the
# batch's matrices over it, as in the MMRec toolbox. That of bm3 is the toolbox's.
_SPECS = (
    RecommenderSpec(
        name="vbpr",
        factory="vbpr:VBPR",
        paper_factory="vbpr_toolbox:ToolboxVBPR",
        grid={"reg": _L2},
        defaults={"reg": 0.01},
        without_features="bpr",
    ),
    RecommenderSpec(
        name="bm3",
        factory="bm3:BM3",
        grid={"layers": (1, 2), "dropout": (0.3, 0.5), "reg": (0.1, 0.01)},
        defaults={"layers": 1, "dropout": 0.5, "reg": 0.1, "cl_weight": 2.0},
    ),
    RecommenderSpec(
        name="freedom",
        factory="freedom:Freedom",
        grid={"dropout": (0.8, 0.9), "reg": (0.0, 1e-5, 1e-4, 1e-3)},
        defaults={
            **{"dropout": 0.8, "reg": 1e-3},
            **{"knn": 10, "item_layers": 1, "user_item_layers": 2, "image_weight": 0.1},
        },
        # The flaw of the official code: items without features are everybody's neighbours.
        paper_options={"zero_rows": "nearest"},
    ),
    RecommenderSpec(
        name="mmgcn",
        factory="mmgcn:MMGCN",
        grid={"reg": (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)},
        defaults={"layers": 3, "reg": 1e-3},
    ),
    RecommenderSpec(
        name="lightgcn",
        factory="lightgcn:LightGCN",
        grid={"layers": (1, 2, 3), "reg": (1e-2, 1e-3, 1e-4)},
        defaults={"layers": 3, "reg": 1e-4},
        uses_features=False,
    ),
    # Matrix factorisation of IDs with an item bias (Rendle et al. 2009, UAI, arXiv 1205.2618).
    RecommenderSpec(
        name="bpr",
        factory="vbpr:VBPR",
        paper_factory="vbpr_toolbox:ToolboxVBPR",
        grid={"reg": _L2},
        defaults={"reg": 0.01},
        uses_features=False,
    ),
    RecommenderSpec(name="most_popular", factory="floors:build_most_popular", uses_features=False, is_trained=False),
    RecommenderSpec(name="random", factory="floors:build_random", uses_features=False, is_trained=False),
)

RECOMMENDERS: dict[str, RecommenderSpec] = {spec.name: spec for spec in _SPECS}
