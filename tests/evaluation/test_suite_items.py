"""The held-out items of a suite: so many products, one variant of each unless all are asked for."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.catalogue.splits import catalogue_groups
from grpo_mmpc.evaluation.suite import build_suite
from grpo_mmpc.pipelines import check

WORDS = [
    "ash",
    "birch",
    "cedar",
    "dogwood",
    "elm",
    "fir",
    "ginkgo",
    "hazel",
    "ivy",
    "juniper",
    "kapok",
    "larch",
    "maple",
    "nutmeg",
    "oak",
    "pine",
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Sixteen shirts in three sizes, each size with its own title and image: 48 items."""
    folder, generator = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    rows = []
    for product, word in enumerate(WORDS):
        for size in ("small", "medium", "large"):
            Image.fromarray(generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f"{word}{size}.png")
            rows.append(
                {
                    "item_id": f"{word}-{size}",
                    "parent_id": word,
                    "category": ["Shirts", "Tops"][product % 2],
                    "title": f"{word} shirt {size}",
                    "image": f"{word}{size}.png",
                }
            )
    (folder / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture
def chosen(make_config, shop):
    def choose(**evaluation):
        config = make_config(data={"catalogue": str(shop), "held_out": 0.7}, evaluation={"max_items": None})
        config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=evaluation)})
        data = RunData(config)
        return config, data, build_suite(config, data, will_run=False)

    return choose


def products(suite):
    return Counter(row.item_id.partition("-")[0] for row in suite.rows)


def test_one_variant_of_every_held_out_product_is_evaluated(chosen):
    _, data, suite = chosen()
    assert len(data.held_out) == 3 * data.held_out_products
    assert 4 <= data.held_out_products <= 15
    assert len(products(suite)) == data.held_out_products
    assert set(products(suite).values()) == {1}
    assert (suite.groups, suite.num_products) == ({}, None)


def test_a_limit_counts_products_whether_one_variant_is_evaluated_or_all(chosen):
    *_, one = chosen(max_items=4)
    *_, every = chosen(max_items=4, all_variants=True)
    assert list(products(one).values()) == [1] * 4
    assert dict(products(every)) == dict.fromkeys(products(one), 3)
    assert {row.item_id for row in one.rows} < {row.item_id for row in every.rows}
    assert every.num_products == 4  # of 12 items, resampled as wholes
    *_, each = chosen(items_per_category=2, all_variants=True)
    assert Counter(row.category for row in each.rows) == {"Shirts": 6, "Tops": 6}


def test_items_that_stand_alone_are_chosen_as_they_always_were(make_config):
    config = make_config()
    data = RunData(config)
    assert catalogue_groups(data.catalogue) == {}
    one = build_suite(config, data, will_run=False)
    settings = config.evaluation.model_copy(update={"all_variants": True})
    every = build_suite(config.model_copy(update={"evaluation": settings}), data, will_run=False)
    assert one.key == every.key


def test_the_check_says_how_many_products_are_held_out_and_what_is_evaluated_of_them(chosen):
    config, data, _ = chosen()
    items, held_out = len(data.held_out), data.held_out_products
    said = "\n".join(check._summary(config, data))
    assert f"{items} held out ({held_out} products: one variant of each is evaluated)" in said
    assert f"evaluation: {held_out} held-out items" in said
    said = "\n".join(check._summary(chosen(all_variants=True)[0], data))
    assert f"{items} held out ({held_out} products: every variant is evaluated)" in said
    assert f"evaluation: {items} held-out items of {held_out} products" in said
