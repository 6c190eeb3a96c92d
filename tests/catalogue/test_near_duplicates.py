"""Near-duplicates: one photo saved in two ways is one; drawings that differ in one mark are two."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from grpo_mmpc.catalogue import duplicates
from grpo_mmpc.catalogue.duplicates import CELL_TOLERANCE, largest_groups, near_duplicate_groups
from grpo_mmpc.catalogue.normalise import title_key
from grpo_mmpc.catalogue.signatures import ImageSignature, Signatures, Thumbnails, signature_table, thumbnail
from grpo_mmpc.utils.files import read_json_lines


def signature(image: Image.Image) -> ImageSignature:
    return ImageSignature(problem=None, aspect=image.width / image.height, thumbnail=thumbnail(image))


def described(signatures: list[ImageSignature | None]) -> Signatures:
    row = [-1 if one is None or one.thumbnail is None else place for place, one in enumerate(signatures)]
    return Signatures(signature_table(signatures), np.array(row, np.int64), problems={})


def image_groups(*images: Image.Image | None) -> list[int]:
    signatures = [None if image is None else signature(image) for image in images]
    return near_duplicate_groups(titles=[None] * len(images), signatures=described(signatures)).tolist()


def title_groups(*titles: str | None) -> list[int]:
    return near_duplicate_groups(titles=titles).tolist()


def photo(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """Detail at several scales, saturated colours: what a photo is to a JPEG encoder."""
    generator = np.random.default_rng(seed)
    layers = []
    for cells in (4, 12, 40):
        noise = Image.fromarray(generator.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
        layers.append(np.asarray(noise.resize(size, Image.Resampling.BICUBIC), dtype=float))
    return Image.fromarray((0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options) -> Image.Image:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def resized(image: Image.Image, factor: float, method: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), method)


COPIES = {
    "jpeg 90": lambda i: saved(i, "JPEG", quality=90),
    "jpeg 75": lambda i: saved(i, "JPEG", quality=75),
    "jpeg 50": lambda i: saved(i, "JPEG", quality=50),
    "jpeg 30": lambda i: saved(i, "JPEG", quality=30),
    "webp": lambda i: saved(i, "WEBP", quality=75),
    "png": lambda i: saved(i, "PNG"),
    "half": lambda i: resized(i, 0.5),
    "a third": lambda i: resized(i, 1 / 3, Image.Resampling.BILINEAR),
    "double": lambda i: resized(i, 2.0, Image.Resampling.BICUBIC),
    "half, then jpeg": lambda i: saved(resized(i, 0.5), "JPEG", quality=75),
    "jpeg twice": lambda i: saved(saved(i, "JPEG", quality=85), "JPEG", quality=60),
    "odd size": lambda i: i.resize((131, 98), Image.Resampling.BICUBIC),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_photo_is_a_near_duplicate(copy):
    images = [variant for seed in range(6) for variant in (photo(seed), copy(photo(seed)))]
    assert image_groups(*images) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def drawing(*, fill: str = "red", mark: tuple[int, int, int, int] | None = None, stripes: bool = False) -> Image.Image:
    """A bag on white, 84 x 84, as simple as the embedded catalogue's."""
    image = Image.new("RGB", (84, 84), "white")
    pencil = ImageDraw.Draw(image)
    pencil.rectangle((22, 30, 62, 70), fill=fill)
    pencil.arc((32, 18, 52, 42), 180, 360, fill="black", width=2)
    for x in range(24, 62, 6) if stripes else ():
        pencil.line((x, 30, x, 70), fill="white", width=1)
    if mark:
        pencil.rectangle(mark, fill="black")
    return image


def test_drawings_that_differ_in_colour_a_small_mark_or_a_pattern_are_different():
    variants = [
        drawing(),
        drawing(fill="blue"),
        drawing(fill="orange"),
        drawing(fill="darkred"),
        drawing(mark=(4, 4, 8, 8)),
        drawing(mark=(76, 4, 80, 8)),
        drawing(mark=(40, 50, 44, 54)),
        drawing(stripes=True),
    ]
    assert image_groups(*variants) == list(range(len(variants)))


def test_colours_of_equal_brightness_are_different():
    # Both have brightness 0.299 * R + 0.587 * G + 0.114 * B = 76: red, 0.299 * 255 = 76.2; green,
    # 0.587 * 130 = 76.3.
    assert image_groups(drawing(fill="rgb(255,0,0)"), drawing(fill="rgb(0,130,0)")) == [0, 1]


def test_the_drawings_of_the_embedded_catalogue_are_all_different():
    from grpo_mmpc.nano.drawing import draw
    from grpo_mmpc.nano.items import sample_items

    images = [draw(item.attributes, jitter=item.jitter) for item in sample_items(num_items=150, seed=5)]
    assert image_groups(*images) == list(range(150))


def test_a_drawing_saved_as_jpeg_is_a_near_duplicate():
    assert image_groups(drawing(), drawing(fill="blue"), saved(drawing(), "JPEG", quality=80)) == [0, 1, 0]


@pytest.mark.parametrize("colour", ["white", "black", "gray", "red"])
def test_an_image_of_one_flat_colour_joins_nothing(colour):
    flat = Image.new("RGB", (50, 50), colour)
    assert image_groups(flat, flat, saved(flat, "JPEG")) == [0, 1, 2]


def test_the_same_thumbnail_in_another_shape_is_another_image():
    wide = photo(0, (300, 150))
    assert image_groups(wide, wide.resize((150, 150)), wide.resize((290, 146))) == [0, 1, 0]


def test_a_missing_or_broken_image_joins_nothing():
    broken = ImageSignature(problem="broken")
    groups = near_duplicate_groups(titles=[None] * 4, signatures=described([None, None, broken, broken]))
    assert groups.tolist() == [0, 1, 2, 3]


def test_many_copies_of_one_image_are_one_group_quickly():
    copies = described([signature(photo(0))] * 20_000)
    assert set(near_duplicate_groups(titles=[None] * 20_000, signatures=copies).tolist()) == {0}


def test_no_close_pair_is_missed_by_the_search():
    generator = np.random.default_rng(0)
    base = generator.integers(20, 230, (40, 384))
    cells = np.concatenate([base, base + generator.integers(-CELL_TOLERANCE, CELL_TOLERANCE + 1, (40, 384))]).astype(
        np.uint8
    )
    signatures = [ImageSignature(problem=None, aspect=1.0, thumbnail=row.tobytes()) for row in cells]
    assert (Thumbnails(signature_table(signatures)["thumbnail"])[np.arange(80)] == cells).all()
    groups = near_duplicate_groups(titles=[None] * 80, signatures=described(signatures))
    assert groups[:40].tolist() == groups[40:].tolist() == list(range(40))
    # One level more than the tolerance in a single cell makes it another image.
    cells[40] = cells[0]
    cells[40, 7] += CELL_TOLERANCE + 1
    signatures[40] = ImageSignature(problem=None, aspect=1.0, thumbnail=cells[40].tobytes())
    assert near_duplicate_groups(titles=[None] * 80, signatures=described(signatures))[40] != 0


def test_of_more_images_than_are_searched_exactly_nearly_every_copy_is_seen(monkeypatch):
    monkeypatch.setattr(duplicates, "SEARCHED_EXACTLY", 0)
    images = [variant for seed in range(80) for variant in (photo(seed), *(c(photo(seed)) for c in COPIES.values()))]
    groups = np.array(image_groups(*images)).reshape(80, 1 + len(COPIES))
    assert (groups == groups[:, :1]).mean() > 0.99
    assert len(set(groups[:, 0])) == 80


def test_what_the_grids_join_is_close(monkeypatch):
    drawings = [drawing(), saved(drawing(), "PNG"), drawing(mark=(4, 4, 8, 8)), drawing(stripes=True)]
    exact = image_groups(*drawings)
    monkeypatch.setattr(duplicates, "SEARCHED_EXACTLY", 0)
    assert image_groups(*drawings) == exact == [0, 0, 1, 2]


def test_a_blurred_photo_is_no_copy():
    assert image_groups(photo(0), photo(0).filter(ImageFilter.GaussianBlur(30))) == [0, 1]


# --- titles


def test_one_normalised_title_makes_a_group():
    assert title_groups("Acme Tote-Bag", "Other", "ACME  tote bag", "acme (tote) bag!") == [0, 1, 0, 0]


@given(titles=st.lists(st.text(alphabet="ab5 7.,-/%\"'(xs\u00b0\u00e9\u7dd1\u2033_+", max_size=14)))
def test_titles_have_equal_keys_read_one_by_one_and_by_columns(titles):
    assert duplicates._title_keys(titles).to_pylist() == [title_key(title) for title in titles]


def test_another_number_is_another_product():
    for pair in (("Sinker .5 oz", "Sinker 5 oz"), ("Bolt 1/4 in", "Bolt 1.4 in"), ("Lens -2.00", "Lens +2.00")):
        assert title_groups(*pair) == [0, 1]


def test_missing_titles_and_titles_of_punctuation_make_no_group():
    assert title_groups(None, None, "", "", "***", "???", "\u0301", "\u0301") == [0, 1, 2, 3, 4, 5, 6, 7]


def numbered(count: int, *others: str) -> str:
    """Return a title of so many words, and others."""
    return " ".join([*(f"w{i}" for i in range(count)), *others])


def test_titles_of_a_template_are_different():
    titles = ("Blue Mug 2 pack", "Blue Mug 3 pack", "Red Mug 2 pack", "Blue Mug", "pack 2 Mug Blue")
    assert title_groups(*titles) == [0, 1, 2, 3, 4]


def test_a_word_more_is_a_near_duplicate_where_nine_are_shared():
    assert title_groups(numbered(9), numbered(9, "new")) == [0, 0]  # 9 of 10 words
    assert title_groups(numbered(8), numbered(8, "new")) == [0, 1]  # 8 of 9
    assert title_groups(numbered(9, "new"), numbered(9, "old")) == [0, 1]  # 9 of 11
    assert title_groups(numbered(9, "new"), numbered(9, "old"), numbered(9)) == [0, 0, 0]  # a chain
    assert title_groups(numbered(30), numbered(30, "very", "new")) == [0, 1]  # two words more


def test_an_exchanged_word_is_a_near_duplicate_where_eighteen_are_shared():
    assert title_groups(numbered(18, "2"), numbered(18, "3")) == [0, 0]  # 18 of 20 words
    assert title_groups(numbered(17, "2"), numbered(17, "3")) == [0, 1]  # 17 of 19
    assert title_groups(numbered(30, "2", "red"), numbered(30, "3", "blue")) == [0, 1]  # two words of 34


def test_of_nine_words_and_more_their_order_does_not_matter():
    words = numbered(9).split()
    assert title_groups(" ".join(words), " ".join(reversed(words)), " ".join([*words, *words])) == [0, 0, 0]
    assert title_groups("a b c", "c b a") == [0, 1]


def test_scripts_without_spaces_are_compared_by_characters():
    title = "陶瓷马克杯大容量早餐咖啡情侣简约水具蓝色"
    assert title_groups(title, f"{title}新", "陶瓷马克杯", "陶瓷马克杯新") == [0, 0, 1, 2]


def test_similar_titles_are_those_that_comparing_all_pairs_gives():
    chance = np.random.default_rng(0)
    kept = [sorted(chance.choice(22, size=int(chance.integers(7, 22)), replace=False)) for _ in range(400)]
    sets = [{f"w{word}" for word in one} for one in kept]
    near = [
        (a, b)
        for a, b in itertools.combinations(range(len(sets)), 2)
        if len(sets[a] & sets[b]) >= 0.9 * len(sets[a] | sets[b])
        and max(len(sets[a] - sets[b]), len(sets[b] - sets[a])) < 2
    ]
    groups = title_groups(*(" ".join(sorted(one)) for one in sets))
    expected = list(range(len(sets)))
    for a, b in near * 20:
        expected[a] = expected[b] = min(expected[a], expected[b])
    names = {}
    assert groups == [names.setdefault(one, len(names)) for one in expected]
    assert 10 < len(sets) - len(names) < 300


def test_no_two_titles_of_the_embedded_catalogue_are_near_duplicates():
    from grpo_mmpc.nano.catalogue import ensure_catalogue

    titles = [row["title"] for row in read_json_lines(ensure_catalogue() / "items.jsonl")]
    assert title_groups(*titles) == list(range(3600))


def test_a_chain_of_title_and_image_joins_its_ends():
    # 0 and 1 share a title, 1 and 2 an image, 2 and 3 a title; 4 stands alone.
    images = [photo(1), photo(2), saved(photo(2), "JPEG"), photo(3), photo(4)]
    titles = ["bag", "Bag", "sack", "SACK", "box"]
    groups = near_duplicate_groups(titles=titles, signatures=described([signature(i) for i in images]))
    assert groups.tolist() == [0, 0, 0, 0, 1]


def test_the_largest_groups_come_first():
    groups = near_duplicate_groups(titles=["a", "b", "b", "c", "c", "c", "d"])
    assert largest_groups(groups, limit=5) == [[3, 4, 5], [1, 2]]
    assert largest_groups(groups, limit=1) == [[3, 4, 5]]
