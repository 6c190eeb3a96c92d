"""Settings of the recommendation benchmark that are shipped: each parses, says how it is run, and
means what its name says."""

import re
import shlex
from pathlib import Path

import pytest

from grpo_mmpc.config import is_file, load_as, load_config
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.recbench.fills import FILLS
from grpo_mmpc.recbench.plan import DROP_MODALITY, ID_ONLY, NO_MISSING
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.settings import RecBenchSection, check_section

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "recbench"
OVERLAY = "nano_in_training"
SETTINGS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != OVERLAY)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_parse_and_name_their_command(name):
    path = FOLDER / f"{name}.yaml"
    load_as(RecBenchSection, [path])
    commands = re.findall(r"^# +grpo-mmpc (recbench .*)$", path.read_text("utf-8"), flags=re.MULTILINE)
    assert commands
    for command in commands:
        words = shlex.split(command)
        files = [word for word in words[1:2] if is_file(word)]
        assert files == [f"recipes/recbench/{name}.yaml"]


def test_the_overlay_adds_the_light_setting_to_a_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(["recipes/nano.yaml", f"recipes/recbench/{OVERLAY}.yaml"], checks=[check_section])
    found = config.evaluation.recbench
    assert found is not None
    assert RecBenchSection.model_validate(found) == load_as(RecBenchSection, ["recipes/recbench/nano.yaml"])


def test_a_policy_of_other_tasks_is_not_asked_for_titles_and_images():
    def problems(*tasks: str) -> list[str]:
        return [key for key, _ in check_section({"tasks": tasks and [*tasks], "evaluation": {"recbench": {}}})]

    assert problems("german", "facts") == ["evaluation.recbench"]
    assert problems("german", "image_to_text") == problems("text_to_image") == problems() == []


def test_a_run_that_is_to_be_benchmarked_on_a_catalogue_without_interactions_is_refused_before_it_trains(tmp_path):
    def problems() -> list[str]:
        raw = {"data": {"catalogue": str(tmp_path)}, "evaluation": {"recbench": {}}}
        return [f"{key}: {text}" for key, text in check_section(raw)]

    [problem] = problems()
    assert problem.startswith(f"evaluation.recbench: {tmp_path} has no interactions.parquet, .jsonl or .csv")
    assert problem.endswith(", or remove evaluation.recbench")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,rating\n")
    assert problems() == []


def test_the_default_is_one_trained_recommender_one_rate_and_few_seeds():
    light = RecBenchSection()
    assert [name for name in light.recommenders if RECOMMENDERS[name].is_trained] == ["vbpr"]
    assert (light.rates, len(light.seeds), light.training.grid) == ([1.0], 3, "single")


def test_full_has_at_least_five_seeds_every_recommender_and_its_published_grid():
    full = load_as(RecBenchSection, [FOLDER / "full.yaml"])
    assert len(full.seeds) >= 5
    assert set(full.recommenders) == set(RECOMMENDERS)
    assert full.training.grid == "published"
    assert full.mode == "corrected"


def test_paper_has_the_flaws_that_the_protocol_has():
    paper = load_as(RecBenchSection, [FOLDER / "paper.yaml"])
    assert (paper.mode, paper.seeds) == ("paper", [999])
    assert "random_paper" in paper.fills


def test_every_fill_that_settings_may_name_exists():
    schema = RecBenchSection.model_json_schema()["properties"]["fills"]["items"]["enum"]
    assert set(schema) == {*FILLS, NO_MISSING, DROP_MODALITY, ID_ONLY}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rates=[0.0]", "greater than 0"),
        ("seeds=[1,1]", "names a value twice"),
        ("recommenders=[vbpl]", "vbpr"),
        ("fills=[zero]", "zeros"),
        ("interactions.min_per_user=2", "greater than or equal to 3"),
        ("interactions.min_per_item=0", "greater than or equal to 1"),
        ("interactions.max_per_user=5", "max_per_user is 5, below min_per_user 8: no user could have both"),
        ("modalities=[text]", None),
        ("missing=[image]", None),
    ],
)
def test_settings_that_make_no_sense_are_refused(override, message):
    if message is None:
        load_as(RecBenchSection, [], [override])
    else:
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_as(RecBenchSection, [], [override])


def test_taking_away_what_recommenders_are_not_told_is_refused():
    with pytest.raises(ConfigError, match="recommenders get 'text' features only"):
        load_as(RecBenchSection, [], ["modalities=[text]", "missing=[image]"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "evaluation.recbench.recommenders=[vbpl]",
            "command line: evaluation.recbench.recommenders.0: input should be 'vbpr'",
        ),
        (
            "evaluation.recbench.fils=[zeros]",
            "command line: evaluation.recbench.fils: unknown key; did you mean 'fills'?",
        ),
        (
            "evaluation.recbench.encoders.text.modell=x",
            "evaluation.recbench.encoders.text.modell: unknown key; did you mean",
        ),
        ("evaluation.recbench.seeds=[1,1]", "evaluation.recbench: seeds names a value twice"),
        ("evaluation.recbench=3", "evaluation.recbench: input should be a valid dictionary, found 3"),
    ],
)
def test_a_mistake_in_the_section_of_a_recipe_is_refused_before_a_model_loads(monkeypatch, override, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_recipe(["recipes/nano.yaml", override])
