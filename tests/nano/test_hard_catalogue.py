"""The hard variant: the same products for everybody, harder to see, some of them never seen."""

from grpo_mmpc.nano.catalogue import build_catalogue
from grpo_mmpc.nano.drawing import draw
from grpo_mmpc.nano.hard import UNSEEN, drawn_attributes, harden, spoil
from grpo_mmpc.nano.items import sample_items
from tests.pipelines.writer import rows_of

ITEMS = sample_items(num_items=360, seed=3)


def test_a_sixth_of_the_items_has_an_unseen_brand_and_a_sixth_an_unseen_type_also_in_their_texts():
    hard = list(map(harden, ITEMS))
    for kind, values in UNSEEN.items():
        unseen = [item for item in hard if item.attributes[kind] in values]
        assert 40 <= len(unseen) <= 80
        for item in unseen:
            assert item.attributes[kind] in item.title.lower() and item.attributes[kind] in item.description.lower()
            assert kind not in drawn_attributes(item)
        for before, after in zip(ITEMS, hard, strict=True):
            if after in unseen:
                assert before.attributes[kind] not in f"{after.title} {after.description}".lower()


def test_an_image_is_spoiled_the_same_way_each_time_and_by_three_patches_at_most():
    images = [draw(item.attributes, jitter=item.jitter) for item in ITEMS[:60]]
    spoiled = [spoil(image, item) for image, item in zip(images, ITEMS, strict=False)]
    assert [image.tobytes() for image in spoiled] == [
        spoil(image, item).tobytes() for image, item in zip(images, ITEMS, strict=False)
    ]
    covered = [sum(pixel == (244, 244, 244) for pixel in image.getdata()) / (84 * 84) for image in spoiled]
    assert 8 <= sum(share < 0.01 for share in covered) <= 25  # a quarter has no patch
    assert max(covered) <= 0.75 + 0.01


def test_the_folder_holds_it_as_any_other(tmp_path):
    folder = build_catalogue(tmp_path / "hard", num_items=18, seed=3, hard=True)
    assert [row["title"] for row in rows_of(folder)] == [
        harden(item).title for item in sample_items(num_items=18, seed=3)
    ]
