"""Answers as models of the big families write them, and whatever else may come."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_mmpc.tasks import IMAGE_TO_TEXT

ANSWER = '{"title": "blue kettle"}'
DRAFT = '{"title": "x"}'


def read(completion: str) -> tuple[str | None, str]:
    parsed = IMAGE_TO_TEXT.parse(completion)
    return parsed.prediction, parsed.format


@pytest.mark.parametrize(
    "thought",
    [
        f"<think>I would say {DRAFT}</think>",
        f"<think>\nno, {DRAFT}\n</think>\n\n",
        f"so {DRAFT}, I think.</think>",  # the opening mark stands in the prompt
        f"<thinking>{DRAFT}</thinking>",
        f"<THINK>{DRAFT}</THINK><think>{DRAFT}</think>",
        f"[THINK]{DRAFT}[/THINK]",
        f"◁think▷{DRAFT}◁/think▷",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|>",
        f"<|channel>thought\n{DRAFT}<channel|>",
    ],
)
def test_what_a_model_thinks_is_no_answer(thought: str) -> None:
    assert read(thought + ANSWER) == ("blue kettle", "json")


@pytest.mark.parametrize("thought", [f"<think>{DRAFT}", f"[THINK]{DRAFT}", f"<think>a</think> well <think>{DRAFT}"])
def test_a_thought_that_was_cut_off_holds_no_answer(thought: str) -> None:
    assert read(thought) == (None, "malformed")


@pytest.mark.parametrize(
    "completion",
    [
        f"First {DRAFT}, or rather {ANSWER}",
        f"```json\n{DRAFT}\n```\nNo:\n```json\n{ANSWER}\n```",
        f"```json\n{DRAFT}\n``` or without a fence: {ANSWER}",
        f"```json\n{ANSWER}",  # the fence was cut off
        f"~~~\n{ANSWER}\n~~~",
        f"[{ANSWER}]",
        f'<tool_call>\n{{"name": "answer", "arguments": {ANSWER}}}\n</tool_call>',  # Qwen, Hermes
        f'<|python_tag|>{{"name": "answer", "parameters": {ANSWER}}}',  # Llama
        f'[TOOL_CALLS][{{"name": "answer", "arguments": {ANSWER}}}]',  # Mistral
        json.dumps({"type": "function", "function": {"name": "answer", "arguments": ANSWER}}),  # OpenAI
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
    ],
)
def test_the_last_object_counts_in_a_fence_a_tool_call_or_other_text(completion: str) -> None:
    assert read(completion) == ("blue kettle", "embedded")


def test_a_title_may_speak_of_thinking() -> None:
    title = "The </think> mug: <think> before you drink"
    assert read(json.dumps({"title": title})) == (title, "json")


def test_an_object_inside_another_is_no_answer() -> None:
    assert read('{"properties": {"title": "a string"}}') == (None, "malformed")


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    prediction, form = read(text)
    assert (prediction is None) == (form == "malformed")


@given(st.text().filter(lambda text: text.strip()), st.text(alphabet="<>/think{}[]\"':,` title\\"))
def test_an_answer_after_any_text_is_read_unless_that_text_swallows_it(title: str, before: str) -> None:
    prediction, _ = read(before + "</think>" + json.dumps({"title": title}))
    assert prediction == title.strip()


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_any_json_is_read_as_a_text_or_as_malformed(value: object) -> None:
    prediction, _ = read(json.dumps(value))
    assert prediction is None or prediction.encode()


@pytest.mark.parametrize(
    "hostile", ["{" * 10**6, '{"a":' * 10**5, "<think>" * 10**5, '{"title": "' * 10**5, "```{" * 10**5]
)
def test_hostile_texts_take_no_time(hostile: str) -> None:
    started = time.process_time()
    read(hostile)
    assert time.process_time() - started < 10
