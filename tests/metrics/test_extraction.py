"""The facts that the extractor takes from a title, and those that it leaves out."""

import math
import time

import pytest

from grpo_mmpc.metrics.extraction import KINDS, compare_titles, extract_attributes
from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.table import METRICS

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st


def facts(title: str, kind: str, *, brand: str | None = None) -> set[str]:
    return set(extract_attributes(title, brand=brand).get(kind, ()))


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Grey and Black mug", {"gray", "black"}),
        ("Navy Blue bag", {"navy"}),
        ("Light Blue bag", {"blue"}),
        ("Rose Gold ring, off-white box", {"rose gold", "off white"}),
        ("multicolour / multi-colored / Multicolor", {"multicolor"}),
        ("redwood bowl with blueberry cream, clear glass", set()),
    ],
)
def test_colors(title: str, expected: set[str]) -> None:
    assert facts(title, "color") == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Bottle 16oz", {"16 oz"}),
        ("Bottle, 16 Ounces", {"16 oz"}),
        ("Bottle 16 fl. oz. / 16 Fluid Ounces", {"16 fl oz"}),
        ('Frame 10"x8"', {"10x8 in"}),
        ("Frame 10 x 8 inches", {"10x8 in"}),
        ("Frame 10in x 8in", {"10x8 in"}),
        ("Frame 8\u00d710", {"8x10"}),
        ("Box 4 x 2.50 x 3 CM", {"4x2.5x3 cm"}),
        ("Rug 5' x 7'", {"5x7 ft"}),
        ("Pole 12 in x 3 ft", {"12 in x 3 ft"}),
        ("Cap 1-1/2 inch, 1/4 inch, .5 inch", {"1.5 in", "0.25 in", "0.5 in"}),
        ("Bag 1,000 g or 2,5 kg", {"1000 g", "2.5 kg"}),
        ("Drill 20V 12-inch", {"20 v", "12 in"}),
        ("Tool 3 in 1, 5in1, the 90's, 24/7, 1080p, A4 paper, 1/0 in x", set()),
        ("Large shirt, medium, small", {"l", "m", "s"}),
        ("X-Large XL extra large", {"xl"}),
        ("XXL 2XL 2x-large", {"2xl"}),
        ("XS x-small", {"xs"}),
        ("Shirt, M", {"m"}),
        ("Shirt size L (S)", {"l", "s"}),
        ("Type M plug, I'm L shaped", set()),
        ("Shoes Size 7.5, size 10.0", {"size 7.5", "size 10"}),
        ("Hat one size", {"one size"}),
    ],
)
def test_sizes(title: str, expected: set[str]) -> None:
    assert facts(title, "size") == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Mugs, pack of 2", {"2"}),
        ("Mugs 2-Pack", {"2"}),
        ("Mugs 2 pcs", {"2"}),
        ("Set of Two Mugs", {"2"}),
        ("Mugs x2", {"2"}),
        ("Bottles 2 x 500 ml", {"2"}),
        ("Bottle 12 oz, 6 count", {"6"}),
        ("Mug pack of 1, 3 handles, 8x10 frame, 24 oz pack", set()),
    ],
)
def test_counts(title: str, expected: set[str]) -> None:
    assert facts(title, "count") == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Sony WH-1000XM4 and wh1000xm4", {"wh1000xm4"}),
        ("DeWalt DCD771C2 20V", {"dcd771c2"}),
        ("Fujifilm X100", {"x100"}),
        ("Printer RT-2000", {"rt2000"}),
        ("covid-19 pre-2024 1080p 60Hz 21st 12-pack 10x8 5in1 MP3 2023 500ml PS5", set()),
    ],
)
def test_models(title: str, expected: set[str]) -> None:
    assert facts(title, "model") == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        # joined to its number an "in" is a unit, unless a digit is joined to it in turn
        ("Pan 12in", {"12 in"}),
        ("Pan 12in deep", {"12 in"}),
        ("Pan 12in 4 pieces", {"12 in"}),
        ("Tool 3in1", set()),
        # behind a space it is a unit before a full stop or another dimension only
        ("Pan 12 in", set()),
        ("Pan 12 in.", {"12 in"}),
        ("Pan 12 in deep", set()),
        ("Pan 12 in 4 pieces", set()),
        ("Sheet 4 in x 5 in", {"4x5 in"}),
        ("Sheet 4 in x 5", {"4x5 in"}),
        ("Sheet 4 IN X 5 in.", {"4x5 in"}),
        ("Sheet 4 in \u00d7 5 cm", {"4 in x 5 cm"}),
        ("12-in pan", {"12 in"}),
        ("12- in pan", set()),
        # other spellings need no such care
        ("Pan 12 inch deep", {"12 in"}),
        ('Pan 12" deep', {"12 in"}),
        ("Pan 12'' deep", {"12 in"}),
        ("Pan 12\u2033 deep", {"12 in"}),
        ("Pan 12\u201d deep", {"12 in"}),
    ],
)
def test_an_in_behind_a_number_means_inches_only_where_nothing_else_fits(title: str, expected: set[str]) -> None:
    assert facts(title, "size") == expected


def test_a_brand_is_found_only_where_it_is_known() -> None:
    assert facts("NORDVIK kettle", "brand", brand="Nordvik") == {"nordvik"}
    assert facts("Kettle by Nordvik", "brand") == set()
    assert facts("Nordviking kettle", "brand", brand="Nordvik") == set()


def test_agreement_counts_facts_of_every_kind() -> None:
    # prediction: red, l, 2; truth: red, 2, 12 oz, acme -> 2 of 3 and 2 of 4; F1 4/7
    agreement = compare_titles(
        prediction="Red mug, Large, 2-pack", reference="Acme red mug 12oz, pack of 2", brand="Acme"
    )
    assert agreement == (pytest.approx(2 / 3), pytest.approx(2 / 4), pytest.approx(4 / 7))


def test_what_cannot_be_judged_is_nan() -> None:
    nan = math.nan
    for prediction, reference, expected in [
        ("mug", "mug", (nan, nan, nan)),
        ("red mug", "mug", (0.0, nan, 0.0)),
        ("mug", "red mug", (nan, 0.0, 0.0)),
    ]:
        found = compare_titles(prediction=prediction, reference=reference)
        assert found == pytest.approx(expected, nan_ok=True)


def test_the_metrics_of_the_table_score_malformed_worst_and_leave_unknown_out() -> None:
    inputs = MetricInputs(
        task="image_to_text",
        predictions=["Acme red mug", None, None, "red mug", "red mug"],
        references=["Acme red mug", "Acme red mug", "mug", None, " "],
        attributes=[{"brand": "Acme"}, {"brand": "Acme"}, {}, {}, {}],
    )
    for part in ("precision", "recall", "f1"):
        scores = METRICS[f"title_attribute_{part}"].score(inputs)
        assert scores == pytest.approx([1.0, 0.0, math.nan, math.nan, math.nan], nan_ok=True)


ADVERSARIAL = [
    "1 x " * 1250,
    "x" * 5000,
    "1" * 5000,
    "1/" * 2500,
    "1 in " * 1000,
    "a-" * 2500,
    "1-" * 2500,
    "1,1." * 1250,
    "x2 " * 1600,
    '""' * 2500,
    "extra " * 800,
    "size: " * 800,
    "حقيبة ٢ " * 600,
    "🎒" * 5000,
    "<b>&amp;</b>" * 400,
    "!" * 5000,
    "\u202e\u200b\u0301" * 1600,
    "NaN",
    "null",
    "",
    "٣ oz ½ in ² cm",
]


@pytest.mark.parametrize("title", ADVERSARIAL, ids=lambda title: repr(title[:8]))
def test_no_title_takes_long_or_breaks_the_extractor(title: str) -> None:
    started = time.process_time()
    extract_attributes(title, brand="Acme")
    assert time.process_time() - started < 0.5  # 5,000 characters take about 0.02 s; a quadratic pattern takes seconds


@settings(max_examples=150, deadline=None)
@given(title=st.text(max_size=80) | st.text(alphabet="0123456789 xX\"'-/.,inozlSML()", max_size=60))
def test_any_text_has_facts_of_known_kinds_and_agrees_with_itself(title: str) -> None:
    found = extract_attributes(title)
    assert set(found) <= set(KINDS)
    assert all(values and all(values) for values in found.values())
    agreement = compare_titles(prediction=title, reference=title)
    assert agreement == ((1.0, 1.0, 1.0) if found else pytest.approx((math.nan,) * 3, nan_ok=True))
    upper = extract_attributes(f"{title} , Red")
    assert "red" in upper["color"]
