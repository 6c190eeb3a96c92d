"""The key ``base``: a recipe on top of others, and the origin of every value."""

from pathlib import Path

import pytest
import yaml

from grpo_mmpc.config import RunConfig, load_config
from grpo_mmpc.config.loading import merge_layers, validate
from grpo_mmpc.config.origins import with_origins
from grpo_mmpc.errors import ConfigError

GROUND = """
run_dir: runs/x
model: {name_or_path: some/model, init_kwargs: {dtype: float32}}
adapter: {r: 16}
data: {catalogue: my_catalogue}
rewards: {mix: [{name: bleu, weight: 0.5}]}
trainer: {learning_rate: 1e-5, max_steps: 10}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "ground.yaml").write_text(GROUND)
    (tmp_path / "base" / "first.yaml").write_text("base: ground.yaml\nadapter: {r: 32}\n")
    return tmp_path


def recipe(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def problems(*files: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(files)
    return caught.value.problems


def test_a_recipe_overrides_its_base_and_that_its_own(folder):
    config = load_config([recipe(folder, "base: base/first.yaml\ntrainer: {max_steps: 20}\n")])
    assert config.trainer == {"learning_rate": 1e-5, "max_steps": 20}
    assert config.adapter is not None and config.adapter.r == 32
    assert config.model.init_kwargs == {"dtype": "float32"}


def test_several_bases_merge_left_to_right(folder):
    recipe(folder, "trainer: {max_steps: 1}\nadapter: {r: 4}\n", "base/small.yaml")
    config = load_config([recipe(folder, "base: [base/first.yaml, base/small.yaml]\n")])
    assert config.adapter is not None and (config.trainer["max_steps"], config.adapter.r) == (1, 4)


def test_a_file_named_after_a_recipe_overrides_its_bases_too(folder):
    mix = recipe(folder, "rewards: {mix: [{name: chrf, weight: 1}]}\n", "mix.yaml")
    config = load_config([recipe(folder, "base: base/first.yaml\n"), mix])
    assert [spec.name for spec in config.rewards.mix] == ["chrf"]


def test_a_circle_of_bases_is_refused_with_its_chain(folder):
    recipe(folder, "base: b.yaml\n", "a.yaml")
    recipe(folder, "base: a.yaml\n", "b.yaml")
    (problem,) = [p for p in problems(folder / "a.yaml") if "circle" in p]
    assert f"{folder / 'a.yaml'} -> {folder / 'b.yaml'} -> {folder / 'a.yaml'}" in problem


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("base/absent.yaml", "no file 'base/absent.yaml' beside it"),
        ("3", "expected a file or a list"),
        ("''", "expected"),
    ],
)
def test_a_base_that_cannot_be_read_names_file_and_key(folder, base, words):
    path = recipe(folder, f"base: {base}\n")
    assert any(p.startswith(f"{path}: base: ") and words in p for p in problems(path))


def test_a_base_is_named_in_files_only(folder):
    with pytest.raises(ConfigError, match="base belongs into a file"):
        load_config([folder / "base" / "ground.yaml"], ["base=x.yaml"])


def test_a_problem_of_a_base_names_the_file_it_stands_in(folder):
    recipe(folder, "base: ground.yaml\nsed: 3\n", "base/wrong.yaml")
    path = recipe(folder, "base: base/wrong.yaml\n")
    assert problems(path) == [f"{folder / 'base/wrong.yaml'}: sed: unknown key; did you mean 'seed'?"]


def test_every_value_names_the_file_that_set_it_and_defaults_say_so(folder):
    path = recipe(folder, "base: base/first.yaml\nseed: 3\nrewards: {mix: [{name: bleu, weight: 1}]}\n")
    layers = merge_layers([path], ["trainer.max_steps=5", "rewards.mix.bleu.weight=0.25"])
    config = validate(RunConfig, layers)
    text = with_origins(config.to_yaml(), given=layers.merged, origins=layers.origins)
    assert yaml.safe_load(text) == yaml.safe_load(config.to_yaml())
    origins = {}
    for line in text.splitlines():
        value, _, origin = line.partition("  # ")
        origins[value.strip()] = origin
    ground, first = folder / "base/ground.yaml", folder / "base/first.yaml"
    assert origins["seed: 3"] == str(path)
    assert origins["r: 32"] == str(first)
    assert origins["dtype: float32"] == str(ground)
    assert origins["max_steps: 5"] == origins["weight: 0.25"] == "command line"
    assert origins["learning_rate: 1.0e-05"] == str(ground)
    assert origins["- name: bleu"] == str(path)
    assert origins["isolated: false"] == origins["salt: ''"] == origins["enabled: true"] == "default"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_origins_fit_a_terminal_wherever_value_and_origin_do(columns):
    text = f"short: 1\nlong: {'x' * 65}\nlonger: {'x' * 110}\n"
    said = with_origins(text, given={"short": 1}, origins={"short": "recipes/nano.yaml"}, columns=columns)
    assert yaml.safe_load(said) == yaml.safe_load(text)
    short, long, longer = said.splitlines()
    # "  # " and 17 letters end one column before the edge; values get 72 columns at most
    assert short.index("#") == {60: 40, 80: 60, 120: 74}[columns] and len(short) < columns
    assert long.endswith("x  # default") == (columns < 120) and longer.endswith("x  # default")


def test_options_of_a_library_are_passed_on_as_given_and_nothing_else_is():
    config = RunConfig.model_validate(
        yaml.safe_load(GROUND)
        | {"adapter": {"r": 4, "use_rslora": True}, "rollout": {"engine": {"max_model_len": 9, "swap_space": 1}}}
    )
    assert config.adapter is not None and config.adapter.options() == {"r": 4, "use_rslora": True}
    assert config.rollout.engine.options() == {"max_model_len": 9, "swap_space": 1}
    assert config.model_dump()["adapter"] == {"r": 4, "use_rslora": True}


@pytest.mark.parametrize(
    ("options", "resolved"),
    [
        ({"device": "cpu"}, {"device": "cpu", "model": "openai/clip-vit-base-patch32"}),
        ({"model": "x", "dtype": "float16"}, {"model": "x", "dtype": "float16"}),
    ],
)
def test_an_encoder_keeps_its_default_model_when_only_another_option_is_set(options, resolved):
    config = RunConfig.model_validate(yaml.safe_load(GROUND) | {"evaluation": {"encoders": {"clip": options}}})
    assert config.evaluation.encoders.clip is not None
    assert config.evaluation.encoders.clip.options() == resolved


def test_a_misspelt_option_of_an_encoder_is_an_error(folder):
    path = recipe(folder, "base: base/first.yaml\nevaluation: {encoders: {bertscore: {num_layer: 3}}}\n")
    assert problems(path) == [
        f"{path}: evaluation.encoders.bertscore.num_layer: unknown key; did you mean 'num_layers'?"
    ]
