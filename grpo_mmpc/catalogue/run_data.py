"""The data of a run: its catalogue, split into training and held-out items."""

from collections.abc import Iterable
from typing import Any

from grpo_mmpc.catalogue import Catalogue, load_catalogue, split_items
from grpo_mmpc.catalogue.siblings import Siblings
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.nano.catalogue import catalogue_folder
from grpo_mmpc.tasks.prompt_rows import fields_of, prompt_rows, usable_indices
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.hashing import stable_order

_MOST_SPACED = 1024
"""Training items whose image headers are read before training, at most."""


class RunData:
    """The catalogue of a run, split: what is trained on, what is held out, what was set aside."""

    def __init__(self, config: RunConfig) -> None:
        folder = catalogue_folder(config.data.catalogue)
        self.catalogue: Catalogue = load_catalogue(folder, check_images=True)
        split = split_items(self.catalogue, held_out=config.data.held_out, salt=config.data.salt)
        tasks = config.measured_tasks
        self._tasks = config.known_tasks
        *first, last = fields_of(tasks)
        self.needs = f"{', '.join(first)} or {last}" if first else last
        """The fields without which an item is left out, in words: ``title or image``."""
        self._texts = {task.target for task in tasks if task.kind != "image"} or {"title"}
        self.train = usable_indices(self.catalogue, split.train, tasks)
        self.held_out = usable_indices(self.catalogue, split.held_out, tasks)
        self.groups = split.groups
        self.incomplete = len(split.train) + len(split.held_out) - len(self.train) - len(self.held_out)
        for side, indices in (("training", self.train), ("held-out", self.held_out)):
            if not indices:
                raise CatalogueError(
                    f"{folder}: every {side} item lacks {self.needs} ({len(self.catalogue)} items, "
                    f"{self.incomplete} incomplete, {len(self.catalogue.quarantined)} quarantined); "
                    "run grpo-mmpc data validate on it, or change data.held_out"
                )

    @property
    def held_out_products(self) -> int:
        """The number of held-out items, those that hang together counted once."""
        return len({self.groups[index] for index in self.held_out})

    @property
    def training_texts(self) -> list[str]:
        """The true texts of all training items, the corpus of rewards that ask for one."""
        return [text for name in sorted(self._texts) for text in self.catalogue.column(name, self.train)]

    @property
    def training_images(self) -> list[str]:
        """The paths of all training items' images."""
        root = self.catalogue.folder.resolve()
        return [str(root / image) for image in self.catalogue.column("image", self.train) if image is not None]

    def summary(self, config: RunConfig) -> dict[str, Any]:
        """Return the manifest's entry on the data."""
        return {
            "catalogue": config.data.catalogue,
            "fingerprint": self.catalogue.fingerprint,
            "items": len(self.catalogue),
            "train_items": len(self.train),
            "held_out_items": len(self.held_out),
            "held_out_products": self.held_out_products,
            "incomplete": self.incomplete,
            "quarantined": len(self.catalogue.quarantined),
        }

    def training_rows(self, task: str, *, at_most: int) -> list[PromptRow]:
        """Return prompts of training items, chosen by stable hash where there are more."""
        ids = self.catalogue.column("item_id", self.train)
        chosen = [self.train[i] for i in stable_order(ids, salt="pool")[:at_most]]
        return prompt_rows(self.catalogue, chosen, [task], known=self._tasks)

    def titles_beside(self, rows: Iterable[PromptRow]) -> dict[str, str]:
        """Return, by item, the titles that the catalogue would give items that had none.

        Items to which no variant, equal image or other field gives one are left out.
        """
        items = {row.item_id for row in rows}
        positions = [place for place, item_id in enumerate(self.catalogue.items["item_id"][:]) if item_id in items]
        siblings = Siblings(self.catalogue, wanting=positions)
        given = ((self.catalogue.record(place), place) for place in positions)
        return {
            record.item_id: beside.value
            for record, place in given
            if (beside := siblings.title(place, record)) is not None
        }

    def spaced_rows(self, tasks: Iterable[str]) -> list[PromptRow]:
        """Return prompts of all training items, or of a thousand evenly spaced of many."""
        spaced = self.train[:: -(-len(self.train) // _MOST_SPACED)]
        return prompt_rows(self.catalogue, spaced, tasks, known=self._tasks)
