"""Tasks as data: what a file may say, what is refused, and what is asked and read by it."""

from pathlib import Path

import pytest

from grpo_mmpc.config import RewardSpec, load_config
from grpo_mmpc.config.recorded import load_recorded_policy
from grpo_mmpc.errors import ConfigError, TrainingError
from grpo_mmpc.pipelines.recipe import check_rewards
from grpo_mmpc.rewards import build_reward, check_mix
from grpo_mmpc.tasks import SHIPPED, Task
from grpo_mmpc.tasks.prompt_rows import prompt_row
from grpo_mmpc.tasks.task import Example
from grpo_mmpc.training.arguments import grpo_arguments
from grpo_mmpc.types import ProductRecord

GERMAN = """
source: [images, category]
target: description
language: German
instruction: 'Schreibe eine Beschreibung auf {language}, als {"description": "..."}.'
max_tokens: 160
"""
FACTS = """
base: image_to_attributes
properties:
  color: {enum: [red, blue]}
  pack: {type: integer}
"""
RECIPE = """
run_dir: runs/x
model: {name_or_path: "nano:qwen2_5_vl"}
adapter: {r: 4}
data: {catalogue: "nano:catalogue"}
tasks: [image_to_text, tasks/german.yaml, tasks/facts.yaml]
rewards: {mix: [{name: chrf, weight: 1.0}, {name: attribute_f1, weight: 0.5}, {name: english_only, weight: 0.1}]}
"""
KETTLE = ProductRecord(
    item_id="1",
    category="Kitchen",
    title="Red Kettle",
    description="A kettle.",
    image=None,
    attributes={"color": "red", "pack": "2", "brand": "Acme"},
)


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/german.yaml").write_text(GERMAN, encoding="utf-8")
    (tmp_path / "tasks/facts.yaml").write_text(FACTS, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path / "recipe.yaml"


def test_a_file_beside_the_recipe_is_a_task_by_its_name_and_the_resolved_recipe_needs_no_file(recipe, tmp_path):
    config = load_config([recipe])
    assert config.tasks == ["image_to_text", "german", "facts"]
    assert config.known_tasks["german"].language == "German"
    assert config.known_tasks["facts"].instruction == SHIPPED["image_to_attributes"].instruction
    resolved = tmp_path / "elsewhere" / "config.yaml"
    resolved.parent.mkdir()
    resolved.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config([resolved]) == config
    assert load_recorded_policy(resolved)[0].known_tasks["german"] == config.known_tasks["german"]


def test_a_task_may_be_named_on_the_command_line_and_changed_there(recipe, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    config = load_config([recipe], ["tasks=[tasks/german.yaml]", "own_tasks.german.max_tokens=9"])
    assert config.tasks == ["german"]
    assert config.known_tasks["german"].greedy().max_tokens == 9
    assert config.known_tasks["german"].greedy({"german": 5}).max_tokens == 5


def test_answers_have_a_schema_by_which_vllm_may_decode_them_and_nothing_else_may(recipe):
    structured, resolved = ["rollout.structured=true"], recipe.parent / "config.yaml"
    resolved.write_text(load_config([recipe]).to_yaml(), encoding="utf-8")
    refused = r"rollout\.structured.*only vLLM decodes by a schema"
    with pytest.raises(ConfigError, match=refused):
        load_config([recipe], structured)
    with pytest.raises(ConfigError, match=refused):
        load_recorded_policy(resolved, structured)
    config = load_config([recipe], ["rollout.backend=vllm", *structured])
    title, facts = (config.known_tasks[name].answer_schema for name in ("image_to_text", "facts"))
    assert (title["required"], title["additionalProperties"]) == (["title"], False)
    assert title["properties"] == {"title": {"type": "string"}}
    assert facts["properties"] == {"color": {"enum": ["red", "blue", None]}, "pack": {"type": ["integer", "null"]}}
    assert "required" not in facts, "a key that is left out is an abstention"
    assert config.known_tasks["facts"].greedy().schema is None
    with pytest.raises(TrainingError, match="never sampled and never unlearnt"):
        grpo_arguments(config)


def test_the_prompt_is_the_image_then_the_instruction_then_each_text_after_its_name(recipe):
    german = load_config([recipe]).known_tasks["german"]
    (message,) = german.messages(category="Kitchen")
    assert message["content"][0]["type"] == "image"
    assert message["content"][1]["text"] == (
        'Schreibe eine Beschreibung auf German, als {"description": "..."}.\nKitchen'
    )
    both = SHIPPED["image_and_text_to_title"].messages(category="Kitchen", description="A kettle.")
    assert both[0]["content"][1]["text"].endswith("\ncategory: Kitchen\ndescription: A kettle.")


def test_examples_are_turns_before_the_item():
    task = Task(
        name="t",
        source=["title"],
        target="description",
        instruction="Describe:",
        examples=[Example(shown={"title": "Mug"}, answer='{"description": "A mug."}')],
    )
    row = prompt_row(Path(), KETTLE, task)
    assert [(m["role"], m["content"][0]["text"]) for m in row.messages] == [
        ("user", "Describe:\nMug"),
        ("assistant", '{"description": "A mug."}'),
        ("user", "Describe:\nRed Kettle"),
    ]
    assert row.reference == "A kettle."


@pytest.mark.parametrize(
    ("completion", "prediction"),
    [
        ('{"color": "red", "pack": 2}', '{"color": "red", "pack": "2"}'),
        ('Here: {"pack": 2.0, "color": null}', None),  # a number with a fraction is no integer
        ('{"color": null}', "{}"),  # an abstention
        ("{}", "{}"),
        ('{"color": "green"}', None),  # not in enum
        ('{"colour": "red"}', None),
        ('{"pack": true}', None),
        ('{"pack": NaN}', None),
        ("red", None),
    ],
)
def test_an_answer_of_attributes_is_valid_by_its_properties_or_malformed(recipe, completion, prediction):
    facts = load_config([recipe]).known_tasks["facts"]
    assert facts.parse(completion).prediction == prediction


def test_the_truth_of_attributes_is_what_the_catalogue_says_of_the_keys_and_answers_itself(recipe):
    facts = load_config([recipe]).known_tasks["facts"]
    truth = facts.reference(KETTLE)
    assert truth == '{"color": "red", "pack": "2"}', "the brand is not asked for"
    assert facts.answer(truth) == '{"color": "red", "pack": 2}'
    assert facts.parse(facts.answer(truth)).prediction == truth
    strange = ProductRecord(**{**{n: getattr(KETTLE, n) for n in KETTLE.__slots__}, "attributes": {"color": "teal"}})
    assert facts.reference(strange) is None, "a colour outside enum cannot be answered"
    assert not facts.is_complete(strange)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{source: [title], target: title, instruction: x}", "title is the target"),
        ("{source: [images], target: image, instruction: x}", "image is the target"),
        ("{source: [picture], target: title, instruction: x}", "images"),
        ("{source: [images, images], target: title, instruction: x}", "appears twice"),
        ("{source: [], target: title, instruction: x}", "source"),
        ("{source: [images], target: price, instruction: x}", "target"),
        ("{source: [images], target: title, instruction: x, langage: German}", "did you mean 'language'"),
        ("{source: [images], target: attributes, instruction: x}", "needs properties"),
        ("{source: [images], target: title, instruction: x, properties: {a: {}}}", "takes no properties"),
        (
            "{source: [images], target: attributes, instruction: x, properties: {a: {type: list}}}",
            "properties.a.type",
        ),
        ("{source: [images], target: attributes, instruction: x, properties: [a]}", "properties"),
        (
            "{source: [title], target: description, instruction: x, examples: [{shown: {title: a}, answer: b}]}",
            "no valid",
        ),
        ("{source: [images], target: title, instruction: x, examples: [{shown: {}, answer: '{}'}]}", "takes none"),
        ("{base: image_to_texts}", "no shipped task 'image_to_texts'"),
        ("just words", "expected a mapping"),
    ],
)
def test_a_file_that_is_no_task_is_refused_in_words(recipe, content, message):
    (recipe.parent / "tasks/german.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config([recipe])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks=[image_to_txt]", "no task 'image_to_txt'; did you mean 'image_to_text'"),
        ("tasks=[image_to_text, image_to_text]", "appears twice"),
        ("evaluation.tasks=[germn]", "did you mean 'german'"),
        ("evaluation.mode=paper", "the paper scores image_to_text and text_to_image, not german"),
        ("tasks=[nowhere/mine.yaml]", "no such file"),
        ("own_tasks={image_to_text: {base: image_to_text}}", "the name of a shipped task"),
        ("own_tasks={../up: {base: image_to_text}}", "no name of a task"),
    ],
)
def test_names_of_tasks_are_known_ones(recipe, override, message):
    with pytest.raises(ConfigError) as error:
        load_config([recipe], [override])
    assert message in str(error.value)


def test_a_run_folder_names_no_file_as_a_task(recipe):
    with pytest.raises(ConfigError, match="tasks names files"):
        load_recorded_policy(recipe)


def test_rewards_score_the_tasks_that_ask_for_what_they_can_score(recipe):
    known = load_config([recipe]).known_tasks
    tasks = ["image_to_text", "german", "facts"]

    def scored(name: str) -> list[str]:
        return [
            task for task in build_reward(RewardSpec(name=name, weight=1.0), known_tasks=known).tasks if task in tasks
        ]

    assert scored("chrf") == ["image_to_text", "german"]
    assert scored("attribute_f1") == tasks
    assert scored("english_only") == ["image_to_text"], "an answer in German is not to be English"
    assert scored("json_format") == tasks
    problems = dict(check_mix([RewardSpec(name="chrf", weight=1.0)], ["facts"], known_tasks=known))
    assert "that task would not learn" in problems["rewards.mix"]
    assert list(check_rewards({"tasks": ["nonsense"], "rewards": {"mix": []}})) == [], "the schema says that"
