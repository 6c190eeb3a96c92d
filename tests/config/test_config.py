from pathlib import Path

import pytest

from grpo_mmpc.config import RunConfig, load_config
from grpo_mmpc.errors import ConfigError

BASE = """
run_dir: runs/x
model: {name_or_path: some/model}
adapter: {r: 16, target_modules: all-linear}
data: {catalogue: my_catalogue}
rewards:
  mix:
    - {name: bleu, weight: 0.5}
trainer: {learning_rate: 1e-5, max_steps: 10}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def problems(*arguments, **keywords) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments, **keywords)
    return caught.value.problems


def test_later_files_override_earlier_ones_key_by_key(base, tmp_path):
    later = tmp_path / "later.yaml"
    later.write_text("trainer: {max_steps: 20}\nrewards: {mix: [{name: chrf, weight: 1}]}\n")
    config = load_config([base, later])
    assert config.trainer == {"learning_rate": 1e-5, "max_steps": 20}
    assert [spec.name for spec in config.rewards.mix] == ["chrf"]  # lists are replaced, not joined


def test_overrides_come_last_and_are_read_as_yaml(base):
    config = load_config([base], ["trainer.max_steps=3", "tasks=[text_to_image]", "rewards.mix.0.weight=0.25"])
    assert config.trainer["max_steps"] == 3
    assert config.tasks == ["text_to_image"]
    assert config.rewards.mix[0].weight == 0.25


def test_exponent_without_a_dot_is_a_number(base):
    config = load_config([base], ["trainer.weight_decay=2e-3"])
    assert config.trainer["learning_rate"] == 1e-5
    assert config.trainer["weight_decay"] == 0.002


def test_only_true_and_false_are_booleans(base):
    config = load_config([base], ["trainer.save_strategy=no", "trainer.use_cpu=true", "trainer.bf16=False"])
    assert (config.trainer["save_strategy"], config.trainer["use_cpu"], config.trainer["bf16"]) == ("no", True, False)


def test_every_problem_is_reported_at_once_with_its_origin(base, tmp_path):
    later = tmp_path / "later.yaml"
    later.write_text("evaluaton: {}\nrewards: {mix: [{name: bleu, weight: high}]}\n")
    found = problems([base, later], ["seed=-1", "tasks=[image_to_txt]"])
    assert len(found) == 4
    assert any(f"{later}: evaluaton: unknown key; did you mean 'evaluation'?" in p for p in found)
    assert any(f"{later}: rewards.mix.0.weight" in p and "'high'" in p for p in found)
    assert any(p.startswith("command line: seed:") for p in found)
    assert any(p.startswith("command line: tasks:") and "'image_to_txt'" in p for p in found)


def test_unknown_key_in_a_nested_list_names_the_nearest_field(base):
    found = problems([base], ["rewards.mix=[{name: bleu, weight: 1, taks: []}]"])
    assert found == ["command line: rewards.mix.0.taks: unknown key; did you mean 'tasks'?"]


def test_findings_of_further_checks_join_those_of_the_schema(base):
    found = problems(
        [base], ["seed=-1"], checks=[lambda raw: [("trainer.max_steps", f"saw {raw['trainer']['max_steps']}")]]
    )
    assert any("seed" in p for p in found)
    assert f"{base}: trainer.max_steps: saw 10" in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("seed: 1\nseed: 2\n", "'seed' appears twice"),
        ("- 1\n- 2\n", "expected a mapping of sections, found list"),
    ],
)
def test_a_file_that_is_not_a_mapping_is_named(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    found = problems([path])
    assert any(str(path) in p and message in p for p in found)


def test_a_missing_file_is_named_with_the_working_directory(tmp_path):
    found = problems([tmp_path / "nope.yaml"])
    assert any("nope.yaml: no such file" in p and str(Path.cwd()) in p for p in found)


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path):
    path = tmp_path / "latin1.yaml"
    path.write_bytes(b"run_dir: caf\xe9\n")
    assert any("not UTF-8 at byte 12" in p for p in problems([path]))


@pytest.mark.parametrize("override", ["max_steps", "=3"])
def test_an_argument_that_is_neither_file_nor_override_is_explained(base, override):
    assert any("overrides look like" in p for p in problems([base], [override]))


def test_an_override_outside_a_list_says_which_positions_exist(base):
    assert any("list of 1; use 0 to 0" in p for p in problems([base], ["rewards.mix.4.weight=1"]))


@pytest.mark.parametrize("weight", ["-0.5", ".nan", ".inf", "true", "'0.5'", "1.0e+300", "1.0e-50"])
def test_a_weight_is_zero_or_a_number_that_single_precision_can_feel(base, weight):
    assert any("rewards.mix.0.weight" in p for p in problems([base], [f"rewards.mix.0.weight={weight}"]))


def test_the_resolved_yaml_loads_back_to_an_equal_config(base, tmp_path):
    config = load_config([base], ["seed=7"])
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config.to_yaml())
    assert load_config([resolved]) == config
    assert isinstance(config, RunConfig)


def test_tokens_of_a_recipe_are_used_and_not_written(base):
    config = load_config([base], ["trainer.hub_token=s3cret", "model.init_kwargs.token=s3cret"])
    assert config.trainer["hub_token"] == config.model.init_kwargs["token"] == "s3cret"
    assert "s3cret" not in config.to_yaml()


def test_a_reward_is_addressed_by_its_name_and_blamed_on_the_command_line(base):
    assert load_config([base], ["rewards.mix.bleu.weight=0.25"]).rewards.mix[0].weight == 0.25
    assert problems([base], ["rewards.mix.bleu.weight=-1"])[0].startswith("command line: rewards.mix.0.weight")
    [problem] = problems([base], ["rewards.mix.blue.weight=1"])
    assert "use 0 to 0 or a name (bleu)" in problem


def test_a_key_below_null_makes_the_section(base):
    config = load_config([base], ["evaluation.encoders.clip=null", "evaluation.encoders.clip.model=nano:clip"])
    assert config.evaluation.encoders.clip is not None
    assert config.evaluation.encoders.clip.model == "nano:clip"


@pytest.mark.parametrize("key", ["transform", "schedule"])
def test_a_reward_takes_no_transform_and_no_schedule(base, key):
    [problem] = problems([base], [f"rewards.mix.bleu.{key}=group_rank"])
    assert problem.startswith(f"command line: rewards.mix.0.{key}: unknown key; ")
