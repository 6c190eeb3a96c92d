"""Whatever stands in a recipe is a configuration or a list of problems, within seconds."""

import contextlib
import datetime
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_mmpc.config import load_config, read_yaml
from grpo_mmpc.config.sections import RunConfig
from grpo_mmpc.config.yaml_files import parse_yaml
from grpo_mmpc.errors import ConfigError


def bomb(levels: int = 30) -> str:
    """Return a few hundred bytes that unfold to 9 to the power of ``levels`` values."""
    lines = [f"a0: &a0 [{','.join('x' * 9)}]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "its anchors unfold to more than 100,000 values; write them out"),
        ("a: &a {b: *a}", "nested too deep, or an anchor holds itself"),
        ("[" * 2000, "nested too deep"),
        ("? [a]\n: b", "a key is a list or a mapping"),
        ("{{a: b}: c}", "a key is a list or a mapping"),
        ("when: 2001-99-99", "month must be in 1..12"),
        ("!!python/object/apply:os.system [touch /tmp/x]", "could not determine a constructor"),
    ],
    ids=["bomb", "circle", "deep", "list as key", "mapping as key", "no date", "code"],
)
def test_yaml_that_would_harm_is_explained_at_once(text, said):
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, source="recipe.yaml")
    assert said in caught.value.problems[0]
    assert caught.value.problems[0].startswith("recipe.yaml: ")
    assert time.process_time() - began < 10.0


def test_dates_are_dates_whatever_others_make_of_them(monkeypatch):
    texts = yaml.SafeLoader.yaml_constructors["tag:yaml.org,2002:str"]
    monkeypatch.setitem(yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:timestamp", texts)
    assert parse_yaml("when: 2001-02-03", source="r") == {"when": datetime.date(2001, 2, 3)}


def test_anchors_that_stay_small_are_welcome():
    assert parse_yaml("a: &a {x: 1}\nb: *a", source="r") == {"a": {"x": 1}, "b": {"x": 1}}


def test_a_file_that_is_not_there_is_compared_with_those_that_are(tmp_path):
    (tmp_path / "nano.yaml").write_text("seed: 1")
    with pytest.raises(ConfigError, match=r"no such file .*did you mean .*nano\.yaml\?"):
        read_yaml(tmp_path / "nano.yml")


def test_a_recipe_of_the_repository_is_found_for_who_starts_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repository = Path(__file__).parents[2]
    with pytest.raises(ConfigError, match=re.escape(f"start from {repository}, where it lies, or give {repository}/")):
        read_yaml(Path("recipes/nano.yaml"))


def test_a_base_of_the_repository_is_found_for_who_keeps_a_recipe_elsewhere(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: recipes/nano.yaml")
    recipe = Path(__file__).parents[2] / "recipes/nano.yaml"
    with pytest.raises(ConfigError, match=re.escape(f"of the repository give {recipe}")):
        load_config([tmp_path / "mine.yaml"])


def test_of_a_misspelt_file_only_its_name_is_said_and_other_mistakes_still_are(tmp_path):
    (tmp_path / "nano.yaml").write_text("seed: 1")
    # What is left of the recipe is none: a check, which may have to load PyTorch, is not asked.
    with pytest.raises(ConfigError) as caught:
        load_config([tmp_path / "nano.yml"], ["seed=-1"], checks=[lambda raw: [("seed", "checked")]])
    unread, other = caught.value.problems
    assert "nano.yml: no such file" in unread and other.startswith("command line: seed: ")


NAMES = st.sampled_from([*RunConfig.model_fields, "mix", "name", "weight", "base", "engine", "encoders", "x", ""])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
QUIET = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@QUIET
@given(
    content=st.dictionaries(NAMES, VALUES, max_size=6), text=st.text(alphabet="&*a:[]{}-?|>!,'\"# \n0.", max_size=40)
)
def test_any_recipe_is_read_or_explained(tmp_path: Path, content, text):
    (tmp_path / "content.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    (tmp_path / "text.yaml").write_text(text, encoding="utf-8")
    for file in ("content.yaml", "text.yaml"):
        with contextlib.suppress(ConfigError):
            load_config([tmp_path / file])


@QUIET
@given(key=st.lists(NAMES | st.sampled_from(["0", "7", "bleu"]), min_size=1, max_size=4), value=st.text(max_size=12))
def test_any_override_is_read_or_explained(tmp_path: Path, key, value):
    (tmp_path / "recipe.yaml").write_text("rewards: {mix: [{name: bleu, weight: 1}]}\nmodel: {name_or_path: x}\n")
    with contextlib.suppress(ConfigError):
        load_config([tmp_path / "recipe.yaml"], [f"{'.'.join(key)}={value}"])
