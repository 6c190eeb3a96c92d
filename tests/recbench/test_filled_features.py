"""What recommenders get where something is missing: completions, nothing, and never the truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench import fills
from grpo_mmpc.recbench.completed_catalogue import completions_of_catalogues
from grpo_mmpc.recbench.completions import encoded_completion
from grpo_mmpc.recbench.data import read_benchmark_data, true_features
from grpo_mmpc.recbench.filled_features import Filling
from grpo_mmpc.utils.cpu_compat import ensure_importable
from tests.recbench.catalogues import settings_for, small_catalogue

ensure_importable()

NO_TITLE, NO_IMAGE = 3, 6


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return small_catalogue(tmp_path_factory.mktemp("fills") / "catalogue", categories=("Bags",))


@pytest.fixture(scope="module")
def gappy(tmp_path_factory):
    """One item never had a title, another one never an image."""
    folder = small_catalogue(tmp_path_factory.mktemp("gappy") / "catalogue", categories=("Bags",)).folder
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    items[NO_TITLE]["title"], items[NO_IMAGE]["image"] = None, None
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return load_catalogue(folder)


class World:
    """A benchmark up to its fills."""

    def __init__(self, catalogue, work: Path, *overrides: str) -> None:
        self.settings = settings_for(*overrides)
        self.data = read_benchmark_data(self.settings, catalogue, say=lambda text: None)
        self.truth = true_features(self.settings, self.data, say=lambda text: None, progress=None)
        self.filling = Filling(self.settings, self.data, self.truth, work=work)
        self._work = work

    def completion(self, titles: dict[str, str]):
        ordered = [titles.get(item_id) for item_id in self.data.item_ids]
        lacking = [None if title else "malformed completion" for title in ordered]
        return encoded_completion(self.settings, "x", values={"text": ordered}, lacking={"text": lacking})

    def place(self, item_id: str) -> int:
        return self.data.item_ids.index(item_id)

    def rows(self, fill: str, **options: Any):
        """Features of the first modality that is taken away, and their coverage."""
        found = self.filling.filled(fill, **{"missing": "text", "rate": 1.0, "seed": 0} | options)
        modality = next(iter(found.coverage))
        return np.load(self._work / "features" / found.files["Bags"][modality]), found.coverage[modality]


def test_items_without_a_completion_are_zero_and_counted(catalogue, tmp_path):
    world = World(catalogue, tmp_path)
    rows, coverage = world.rows("completed", completion=world.completion({"Bags-00": "a red bag"}))
    assert (coverage.masked, coverage.covered) == (32, 1)
    assert coverage.reasons == {"malformed completion": 31}
    place = world.place("Bags-00")
    assert np.linalg.norm(rows[place]) == pytest.approx(1.0, abs=1e-5)
    assert not np.delete(rows, place, axis=0).any()
    assert np.abs(rows[place] - world.truth["text"][place]).max() > 0.01


def test_in_paper_mode_they_keep_the_truth_which_is_the_flaw_and_each_has_one_reason(catalogue, tmp_path):
    world = World(catalogue, tmp_path, "mode=paper", "seeds=[999]")
    rows, coverage = world.rows("completed", completion=world.completion({"Bags-00": "a red bag"}))
    place = world.place("Bags-00")
    np.testing.assert_array_equal(
        np.delete(rows, place, axis=0), np.delete(world.truth["text"], place, axis=0).astype(np.float32)
    )
    assert coverage.covered == 1
    assert coverage.reasons == {"malformed completion: kept the true vector (paper mode)": 31}


@pytest.mark.parametrize("title", ["red bags number 0", "RED  Bags number 0", "r\u00e9d bags number 0"])
def test_a_completion_whose_vector_is_the_true_one_is_no_leak(catalogue, tmp_path, title):
    """Encoders overlook case, accents and spaces: a near copy has exactly the true vector."""
    world = World(catalogue, tmp_path)
    rows, coverage = world.rows("completed", completion=world.completion({"Bags-00": title}))
    assert coverage.covered == 1
    place = world.place("Bags-00")
    np.testing.assert_allclose(rows[place], world.truth["text"][place], atol=1e-6)


def test_a_fill_that_gives_back_the_truth_stops_the_benchmark(catalogue, tmp_path, monkeypatch):
    """Only rows with a completion of their own may be the truth."""

    world = World(catalogue, tmp_path)
    honest = world.completion({"Bags-00": "a red bag"})

    def leaking(masked, inputs):
        said = fills.FILLS["mean"](masked, inputs)
        return said._replace(vectors=world.truth["text"][masked.missing], reasons=np.full_like(said.reasons, ""))

    monkeypatch.setitem(fills.FILLS, "completed", leaking)
    with pytest.raises(RecBenchError, match="31 of 32 missing items still have their true vector"):
        world.rows("completed", completion=honest)


@pytest.mark.parametrize(
    "fill", ["mean", "category_mean", "random_matched", "nearest_neighbour", "feature_propagation"]
)
def test_what_an_item_never_had_is_not_filled_and_does_not_count(gappy, tmp_path, fill):
    """The ceiling knows nothing of such an item either: filled, it would beat the truth."""
    world = World(gappy, tmp_path, "fills=[nearest_neighbour]", "rates=[0.5]")
    rows, coverage = world.rows(fill, rate=0.5)
    never = world.place(f"Bags-{NO_TITLE:02d}")
    assert not rows[never].any()
    has_title = np.array([title is not None for title in world.data.titles])
    zeros = world.rows("zeros", rate=0.5)[1]
    assert coverage.masked == zeros.masked < has_title.sum()
    assert coverage.covered + sum(coverage.reasons.values()) == coverage.masked
    everything = world.rows("zeros", rate=1.0)[1]
    assert (everything.masked, everything.reasons) == (31, {"left empty": 31})


def completed_folder(tmp_path, catalogue, title, *, image=True, marked=False) -> Path:
    """``title(item)`` for every item that it is not None of; pictures are the original ones."""
    folder = tmp_path / "completed"
    (folder / "images").mkdir(parents=True)
    lines = []
    for item in catalogue.items:
        path = folder / "images" / f"{item['item_id']}.png"
        if image:
            path.write_bytes((catalogue.folder / "images" / path.name).read_bytes())
        line = {"item_id": item["item_id"], "category": "Bags", "title": title(item)}
        line["image"] = f"images/{path.name}" if image else None
        lines.append(json.dumps(line | ({"completed": "title"} if marked else {})))
    (folder / "items.jsonl").write_text("\n".join(lines))
    return folder


def of_catalogue(world: World, folder: Path):
    said: list[str] = []
    [found] = completions_of_catalogues(world.settings, {"mine": folder}, world.data, say=said.append)
    return found, said


def test_completions_of_titles_alone_are_measured_though_images_are_the_original_ones(catalogue, tmp_path):
    world = World(catalogue, tmp_path, "missing=[text,image]")
    found, said = of_catalogue(world, completed_folder(tmp_path, catalogue, lambda item: f"some {item['item_id']}"))
    assert set(found.vectors) == {"text"}
    assert said[0] == "mine: 32 of 32 missing titles completed"
    assert said[1].startswith(
        "mine: 0 of 32 missing images completed; 32 not, because not completed: mostly as in the orig"
    )
    _, coverage = world.rows("completed", missing="image", completion=found)
    assert (coverage.masked, coverage.covered) == (32, 0)


def test_a_catalogue_that_is_the_original_throughout_is_refused(catalogue, tmp_path):
    world = World(catalogue, tmp_path, "missing=[text,image]")
    folder = completed_folder(tmp_path, catalogue, lambda item: item["title"])
    with pytest.raises(
        RecBenchError, match=r"32 of 32 titles are the true ones and 32 of 32 image files are, byte for"
    ):
        of_catalogue(world, folder)


def test_titles_that_a_mask_spared_are_no_completions_unless_they_are_marked(catalogue, tmp_path):
    """A catalogue masked at a rate of 0.8 and measured at 1.0 would hold 20 % of the truth."""
    world = World(catalogue, tmp_path)

    def title(item):
        return item["title"] if item["item_id"] < "Bags-06" else f"some {item['item_id']}"

    found, said = of_catalogue(world, completed_folder(tmp_path / "plain", catalogue, title))
    rows, coverage = world.rows("completed", completion=found)
    reason = "unchanged; mark it in the column completed if it is a completion"
    assert coverage.reasons == {reason: 6}
    assert not rows[world.place("Bags-00")].any()
    assert said == [f"mine: 26 of 32 missing titles completed; 6 not, because {reason}"]
    found, said = of_catalogue(world, completed_folder(tmp_path / "marked", catalogue, title, marked=True))
    assert world.rows("completed", completion=found)[1].covered == 32
    assert said == ["mine: 32 of 32 missing titles completed; 6 exactly as they were"]


def test_an_item_that_never_had_a_title_does_not_count_as_missing_in_a_completed_catalogue(gappy, tmp_path):
    world = World(gappy, tmp_path)
    folder = completed_folder(tmp_path, gappy, lambda item: f"some {item['item_id']}", image=False)
    found, said = of_catalogue(world, folder)
    assert said == ["mine: 31 of 31 missing titles completed"]
    assert world.rows("completed", completion=found)[1].covered == 31
