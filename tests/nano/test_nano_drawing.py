import numpy as np
import pytest

from grpo_mmpc.nano.drawing import draw
from grpo_mmpc.nano.items import sample_items
from grpo_mmpc.nano.shapes import SHAPES
from grpo_mmpc.nano.vocabulary import BRANDS_BY_CATEGORY, KINDS, TYPES, VALUES

MUG = {
    "type": "mug",
    "color": "blue",
    "pattern": "dotted",
    "material": "steel",
    "size": "medium",
    "pack": "2",
    "brand": "nordvik",
}
CORNERS = {  # rows, columns of the fixed 28 x 28 cell
    "brand": (slice(0, 28), slice(0, 28)),
    "pack": (slice(0, 28), slice(56, 84)),
    "material": (slice(56, 84), slice(0, 28)),
    "size": (slice(56, 84), slice(56, 84)),
}


def pixels(attributes, *, jitter=0, size=84):
    return np.asarray(draw(attributes, jitter=jitter, size=size), dtype=np.float32) / 255


def mean_pixels(attributes, *, jitters=range(8)):
    return np.mean([pixels(attributes, jitter=jitter) for jitter in jitters], axis=0)


def test_an_image_is_rgb_of_the_asked_size():
    for size in (84, 336):
        picture = draw(MUG, jitter=0, size=size)
        assert (picture.mode, picture.size) == ("RGB", (size, size))


def test_the_jitter_alone_decides_between_two_images_of_one_product():
    assert np.array_equal(pixels(MUG, jitter=3), pixels(MUG, jitter=3))
    assert not np.array_equal(pixels(MUG, jitter=3), pixels(MUG, jitter=4))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pattern"])
def test_two_values_of_a_kind_look_different_beyond_jitter(kind):
    """Another value changes the mean image more than other jitters of the same value do."""
    values = VALUES[kind]
    means = [mean_pixels(MUG | {kind: value}) for value in values]
    again = [mean_pixels(MUG | {kind: value}, jitters=range(100, 108)) for value in values]
    distances = np.array([[np.square(a - b).mean() for b in again] for a in means])
    nearest = distances.argmin(axis=1)
    assert [values[i] for i in nearest] == list(values)


def test_every_pattern_has_a_texture_of_its_own_wherever_it_starts():
    """The spectrum of the product's middle, which knows no position, names the pattern."""

    def spectrum(pattern, jitter):
        middle = pixels(MUG | {"pattern": pattern, "size": "large"}, jitter=jitter)[34:62, 22:50].mean(-1)
        return np.abs(np.fft.fft2(middle - middle.mean()))

    patterns = VALUES["pattern"]
    means = [np.mean([spectrum(pattern, jitter) for jitter in range(12)], axis=0) for pattern in patterns]
    for pattern in patterns:
        for jitter in range(100, 112):
            distances = [np.square(spectrum(pattern, jitter) - mean).mean() for mean in means]
            assert patterns[int(np.argmin(distances))] == pattern


@pytest.mark.parametrize("kind", CORNERS)
def test_a_corner_reads_its_kind_whatever_else_is_drawn(kind):
    """The nearest mean of the corner cell names the value on other items, whatever their colour."""
    rows, columns = CORNERS[kind]
    items = sample_items(num_items=1200, seed=21)
    corners = np.stack([pixels(item.attributes, jitter=item.jitter)[rows, columns].ravel() for item in items])
    labels = np.array([VALUES[kind].index(item.attributes.get(kind, "1")) for item in items])
    means = np.stack([corners[:900][labels[:900] == label].mean(0) for label in range(len(VALUES[kind]))])
    distances = np.square(corners[900:, None] - means).mean(-1)
    assert (distances.argmin(1) == labels[900:]).mean() > 0.97


def test_the_silhouette_reads_the_type_on_other_items():
    """Nearest neighbour of the dark-or-coloured area, a far weaker reader than a network."""
    items = sample_items(num_items=1500, seed=22)
    masks = np.stack([pixels(i.attributes, jitter=i.jitter)[12:72, 12:72].min(-1) < 0.9 for i in items])
    flat = masks[:, ::2, ::2].reshape(len(items), -1).astype(np.float32)
    types = np.array([item.attributes["type"] for item in items])
    # Nearest in Hamming distance: a + b - 2ab
    distances = flat[1350:].sum(1)[:, None] + flat[:1350].sum(1) - 2 * flat[1350:] @ flat[:1350].T
    assert (types[:1350][distances.argmin(1)] == types[1350:]).mean() > 0.6  # chance is 1/54


@pytest.mark.parametrize("kind", CORNERS)
def test_a_missing_kind_leaves_its_corner_empty(kind):
    attributes = {k: v for k, v in (MUG | {"size": "small"}).items() if k != kind}
    rows, columns = CORNERS[kind]
    corner = pixels(attributes)[rows, columns]
    edge = corner[:20] if kind in ("brand", "pack") else corner[-20:]
    edge = edge[:, :16] if kind in ("brand", "material") else edge[:, -16:]
    assert np.ptp(edge) == 0  # nothing but paper


def test_nothing_known_is_a_blob_on_paper():
    picture = pixels({})
    assert np.ptp(picture[:14]) == 0  # paper only
    assert np.ptp(picture) > 0.1


def test_every_type_has_a_shape_of_its_own():
    assert set(SHAPES) == set(TYPES)
    assert len(set(SHAPES.values())) == len(SHAPES)


def test_brands_of_a_category_differ_in_the_colour_of_their_mark():
    for brands in BRANDS_BY_CATEGORY.values():
        inks = set()
        for brand in brands:
            mark = np.asarray(draw({"brand": brand}, jitter=0))[:22, :22].reshape(-1, 3)
            inks.add(int(mark[mark.astype(int).sum(1).argmin()].argmax()))  # strongest channel of the darkest pixel
        assert inks == {0, 1, 2}


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match="unknown type 'teapot'"):
        draw({"type": "teapot"}, jitter=0)
