import hashlib
import json

import pytest

from grpo_mmpc.tasks import IMAGE_TO_TEXT, TASKS, TEXT_TO_IMAGE

BOTH = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@BOTH
def test_the_perfect_answer_parses_to_itself(task):
    text = 'Ünï "quoted" title, 5" \\ back'
    parsed = task.parse(task.answer(text))
    assert (parsed.prediction, parsed.format) == (text, "json")


@BOTH
@pytest.mark.parametrize(
    "template",
    [
        "```json\n{}\n```",
        "```\n{}\n```",
        "Sure! Here it is:\n```JSON\n{}```\nEnjoy.",
        "The answer is {} as asked.",
        "{} {}",
    ],
)
def test_fenced_or_embedded_json_is_read_and_marked(task, template):
    parsed = task.parse(template.replace("{}", task.answer("Red Kettle")))
    assert (parsed.prediction, parsed.format) == ("Red Kettle", "embedded")


@BOTH
@pytest.mark.parametrize(
    "completion",
    [
        "",
        "   ",
        "Red Kettle",
        "error",
        '{"name": "Red Kettle"}',
        '{"KEY": ""}',
        '{"KEY": "   "}',
        '{"KEY": null}',
        '{"KEY": 3}',
        '{"KEY": ["Red Kettle"]}',
        '{"KEY": "Red Kettle", "brand": "Acme"}',
        '{"KEY": "Red Ket',
        "{'KEY': 'Red Kettle'}",
        '["KEY", "Red Kettle"]',
        "{" * 5000,
        '{"a":' * 5000,
    ],
)
def test_anything_else_is_a_malformed_completion(task, completion):
    parsed = task.parse(completion.replace("KEY", task.json_key))
    assert (parsed.prediction, parsed.format) == (None, "malformed")


@BOTH
def test_braces_in_the_text_around_the_answer_do_not_hide_it(task):
    completion = "{draft} for {you}: " + task.answer("Red {Deluxe} Kettle") + " }"
    assert task.parse(completion).prediction == "Red {Deluxe} Kettle"


def test_the_two_tasks_do_not_accept_each_others_key():
    assert TEXT_TO_IMAGE.parse(IMAGE_TO_TEXT.answer("x")).prediction is None
    assert IMAGE_TO_TEXT.parse(TEXT_TO_IMAGE.answer("x")).prediction is None


def test_image_to_text_shows_an_image_and_never_the_title():
    (message,) = IMAGE_TO_TEXT.messages()
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    with pytest.raises(ValueError, match="it is the reference"):
        IMAGE_TO_TEXT.messages(title="Red Kettle")


def test_text_to_image_shows_the_title_and_no_image():
    (message,) = TEXT_TO_IMAGE.messages(title="Red Kettle")
    assert [part["type"] for part in message["content"]] == ["text"]
    assert message["content"][0]["text"].endswith("\nRed Kettle")
    with pytest.raises(ValueError, match="needs the title"):
        TEXT_TO_IMAGE.messages()


@BOTH
def test_the_example_in_the_prompt_is_an_answer_the_parser_accepts(task):
    assert task.parse(task.instruction).prediction is not None
    assert json.loads(task.answer("x")) == {task.json_key: "x"}


def test_half_a_surrogate_pair_becomes_text_that_files_and_tokenizers_take():
    parsed = IMAGE_TO_TEXT.parse('{"title": "\\ud83d red mug"}')
    assert parsed.prediction == "? red mug"
    assert IMAGE_TO_TEXT.parse('{"title": "\\ud83d\\ude00 mug"}').prediction == "\U0001f600 mug"


def test_a_number_of_thousands_of_digits_is_malformed_and_no_crash():
    assert IMAGE_TO_TEXT.parse('{"title": ' + "9" * 5000 + "}").prediction is None
    assert IMAGE_TO_TEXT.parse("see " + '{"title": ' + "9" * 5000 + "}").format == "malformed"


def test_the_version_of_a_prompt_changes_with_its_text_and_nothing_else():
    changed = IMAGE_TO_TEXT.model_copy(update={"instruction": IMAGE_TO_TEXT.instruction + " Be brief."})
    assert len({IMAGE_TO_TEXT.version, TEXT_TO_IMAGE.version, changed.version}) == 3
    assert IMAGE_TO_TEXT.model_copy(update={"max_tokens": 1}).version == IMAGE_TO_TEXT.version


def test_the_prompts_of_the_paper_are_what_they_were_to_the_byte():
    digests = {name: hashlib.sha256(task.instruction.encode()).hexdigest()[:16] for name, task in TASKS.items()}
    assert digests == {"image_to_text": "fdee8b4aa8e3df1e", "text_to_image": "a6b0dfea3664130c"}
