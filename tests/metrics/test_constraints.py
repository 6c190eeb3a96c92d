"""What a seller demands of titles: each is kept or named, and impossible ones are refused."""

import pytest

from grpo_mmpc.config.sections import GateSection
from grpo_mmpc.metrics.constraints import Constraints

FACTS = {"brand": "Nordvik", "type": "kettle", "pack": "1"}


@pytest.mark.parametrize(
    ("demands", "text", "violated"),
    [
        ({"length": [8, 12]}, "Kettle", ["6 characters, not 8 to 12"]),
        ({"banned": ["free  shipping", "sale"]}, "Kettle, FREE shipping", ["banned: free  shipping"]),
        ({"banned": ["sale"]}, "Salesman Doll", []),
        ({"brands": ["Nordvik", "Zibbo"]}, "Zibbo Kettle", ["does not name Nordvik"]),
        ({"brands": ["Acme", "Zibbo"]}, "Zibbo Kettle", []),
        ({"brands": ["Acme", "Zibbo"]}, "Kettle", ["names none of the brands"]),
        ({"required": ["type", "brand", "pack", "color"]}, "Nordvik Mug", ["does not state the type: kettle"]),
        ({"letter_case": "title"}, "Kettle of steel, 3-pack", ["begins small: steel"]),
        ({"letter_case": "title"}, "Men's Mug for the Office", []),
        ({"letter_case": "no_capitals"}, "BEST Kettle USB", ["capitals: BEST"]),
        ({"language": "english"}, "Sac à dos d'école pour fille", ["not English"]),
        ({"language": "english"}, "Steel Kettle", []),
    ],
)
def test_each_demand_is_kept_or_named(demands, text, violated):
    assert Constraints(**demands).check(text, FACTS) == violated


@pytest.mark.parametrize(
    ("demands", "says"),
    [
        ({"length": [9, 3]}, "length is"),
        ({"banned": "sale"}, "expected a list of texts"),
        ({"letter_case": "upper"}, "expected one of title, no_capitals"),
        ({"lenght": [1, 2]}, "unexpected keyword argument 'lenght'"),
    ],
)
def test_impossible_demands_are_refused_where_the_recipe_is_read(demands, says):
    with pytest.raises(ValueError, match=says):
        GateSection(constraints=demands)
