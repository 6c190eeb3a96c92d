"""Controls: what answers without a policy, and a policy without its picture."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import EvaluationSection, RunConfig
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation import evaluator
from grpo_mmpc.evaluation.controls import CONTROLS, NoTitleBesideError, another_row, changed_rows, known_answers
from grpo_mmpc.evaluation.evaluator import Evaluator
from grpo_mmpc.evaluation.scorers import Scorers
from grpo_mmpc.evaluation.suite import build_suite
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.tasks.prompt_rows import prompt_rows
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.locks import hold

GREEDY = SamplingConfig(max_tokens=8, temperature=0.0)
DIRECTIONS = {"north": [1.0, 0.0], "north-east": [0.8, 0.6], "east": [0.0, 1.0], "unread": [float("nan")] * 2}


class Compass:
    """An encoder of two dimensions: a title or a file name is the direction it names."""

    def encode(self, texts) -> torch.Tensor:
        return torch.tensor([DIRECTIONS[text] for text in texts])

    def embed_images(self, paths) -> torch.Tensor:
        return torch.tensor([DIRECTIONS[Path(path).stem] for path in paths])


def row(item_id: str, title: str, *, category: str = "c", task: str = "image_to_text", image: str = "") -> PromptRow:
    shown = task == "image_to_text"
    path = image or f"/pictures/{title}.png"
    return PromptRow(
        prompt_id=f"{task}:{item_id}",
        item_id=item_id,
        category=category,
        task=task,
        messages=TASKS[task].messages(title=None if shown else title),
        prompt_image_path=path if shown else None,
        image_path=path,
        reference=title if shown else None,
        title=title,
    )


def nothing_beside(rows) -> dict[str, str]:
    return {}


def answers_of(name: str, rows: list[PromptRow], pool: list[PromptRow], beside=nothing_beside) -> list[str | None]:
    scorers = Scorers(sentence=Compass(), clip=Compass(), renderer=object())
    answers, _ = known_answers(name, rows, pool=lambda task: pool, beside=beside, scorers=scorers)
    task = TASKS[rows[0].task]
    return [task.parse(completion).prediction for completion in answers.generate(rows, GREEDY)]


def test_every_control_of_the_recipe_is_known_and_none_is_forgotten():
    assert set(EvaluationSection().controls) == set(CONTROLS)


def test_the_title_of_a_category_is_the_training_title_nearest_to_its_mean():
    # Mean of the three directions is (0.6, 0.53): north-east has 0.80, north 0.6, east 0.53.
    pool = [row("p1", "north"), row("p2", "north-east"), row("p3", "east"), row("p4", "east", category="d")]
    assert answers_of("category_title", [row("1", "north"), row("2", "east", category="d")], pool) == [
        "north-east",
        "east",
    ]


def test_a_category_without_training_items_gets_the_title_typical_of_all():
    pool = [row("p1", "east"), row("p2", "north"), row("p3", "east")]
    assert answers_of("category_title", [row("1", "north", category="new")], pool) == ["east"]


def test_retrieval_takes_the_title_of_the_most_similar_picture_and_never_an_unreadable_one():
    pool = [row("p1", "east"), row("p2", "unread"), row("p3", "north")]
    assert answers_of("nearest_title", [row("1", "north-east")], pool) == ["north"]  # 0.8 against 0.6


def test_retrieval_of_a_picture_shows_the_picture_of_the_most_similar_title(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    pool = [
        row("p1", "east", task="text_to_image", image=str(tmp_path / "red.png")),
        row("p2", "north", task="text_to_image"),
    ]
    rows = [row("1", "east", task="text_to_image")]
    answers, scorers = known_answers(
        "nearest_image", rows, pool=lambda task: pool, beside=nothing_beside, scorers=Scorers(sentence=Compass())
    )
    prompts = [TASKS["text_to_image"].parse(c).prediction for c in answers.generate(rows, GREEDY)]
    (picture,) = scorers.renderer.render(prompts, seeds=[0])
    assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_the_raw_title_is_its_own_image_prompt():
    assert answers_of("raw_title", [row("1", "north", task="text_to_image")], []) == ["north"]


def test_another_item_is_never_the_item_itself_and_of_its_category_where_there_is_one():
    rows = [row(str(i), f"title {i}", category="ab"[i % 2]) for i in range(9)] + [row("x", "alone", category="c")]
    others = another_row(rows)
    assert all(other.item_id != mine.item_id for mine, other in zip(rows, others, strict=True))
    assert all(other.category == mine.category for mine, other in zip(rows[:9], others, strict=False))
    assert sorted(o.item_id for o in others[:9]) == sorted(r.item_id for r in rows[:9]), "each title is used once"
    assert answers_of("other_title", rows, []) == [other.title for other in others]


def test_a_blank_picture_has_the_size_of_the_real_one(small_catalogue, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = prompt_rows(load_catalogue(small_catalogue), range(3), ["image_to_text"])
    for mine, changed in zip(rows, changed_rows("blank_image", rows, folder=Path("shown")), strict=True):
        assert Path(changed.prompt_image_path).is_absolute(), "engines read pictures from anywhere"
        assert mine.prompt_image_path is not None and changed.prompt_image_path is not None
        with Image.open(changed.prompt_image_path) as blank, Image.open(mine.prompt_image_path) as real:
            assert blank.size == real.size
            assert blank.convert("RGB").getextrema() == ((255, 255),) * 3
        assert replace(changed, prompt_image_path=mine.prompt_image_path) == mine, "nothing else changes"


def test_shuffled_pictures_leave_the_reference_where_it_was():
    rows = [row(str(i), f"title {i}") for i in range(4)]
    changed = changed_rows("shuffled_image", rows, folder=Path("unused"))
    assert [r.title for r in changed] == [r.title for r in rows]
    assert all(a.prompt_image_path != b.prompt_image_path for a, b in zip(rows, changed, strict=True))


@pytest.mark.parametrize(("name", "scorer"), [("nearest_title", "clip"), ("category_title", "sentence")])
def test_a_control_without_its_encoder_says_what_is_missing_and_why(name, scorer):
    scorers = Scorers(missing={scorer: "switched off in the recipe"})
    with pytest.raises(EvaluationError, match=f"control {name} needs {scorer}: switched off in the recipe"):
        known_answers(name, [row("1", "north")], pool=lambda task: [], beside=nothing_beside, scorers=scorers)


def test_a_variants_title_is_the_answer_where_there_is_one_and_retrieval_elsewhere():
    rows, pool = [row("1", "north"), row("2", "east")], [row("p1", "north"), row("p2", "east")]
    assert answers_of("sibling_title", rows, pool, lambda rows: {"1": "North, Size S"}) == ["North, Size S", "east"]


def test_a_catalogue_that_has_no_title_beside_leaves_that_control_out():
    with pytest.raises(EvaluationError, match="no evaluated item has a variant"):
        answers_of("sibling_title", [row("1", "north")], [row("p1", "north")])


class Policy:
    """Always says the same, and counts how often it is asked."""

    rows_at_once = 100

    def __init__(self) -> None:
        self.asked = 0

    def generate(self, rows, sampling) -> list[str]:
        self.asked += len(rows)
        return [TASKS[r.task].answer("red bag") for r in rows]


@pytest.fixture
def controls_of(small_catalogue, tmp_path, monkeypatch):
    """Return a function that runs two controls; it returns the number of rows asked, and lines
    said."""
    monkeypatch.setattr(evaluator, "load_scorers", lambda config: Scorers())

    def run(name: str, policy: str, **changes) -> tuple[int, list[str]]:
        settings = {"controls": ["blank_image", "other_title"], "max_items": 3, **changes}
        config = RunConfig.model_validate(
            {
                "run_dir": str(tmp_path),
                "model": {"name_or_path": "nano:qwen2_5_vl"},
                "adapter": {"r": 2},
                "data": {"catalogue": str(small_catalogue), "held_out": 0.2},
                "rewards": {"mix": [{"name": "bleu", "weight": 1.0}]},
                "evaluation": settings,
            }
        )
        data, engine = RunData(config), Policy()
        said: list[str] = []
        evaluation = Evaluator(config, data, build_suite(config, data), evaluations=tmp_path)
        monkeypatch.setattr(evaluation, "say", said.append)
        evaluation.run_controls(lambda: nullcontext(engine), name=name, policy=policy)
        return engine.asked, [line for line in said if "already" in line or "left out" in line]

    return run


def test_controls_of_the_final_policy_are_not_measured_again_under_the_name_of_its_checkpoint(controls_of, tmp_path):
    assert controls_of("final", "the weights") == (3, [])
    again = ["control-blank_image-checkpoint-80: already evaluated as control-blank_image-final"]
    assert controls_of("checkpoint-80", "the weights") == (0, again)
    assert not (tmp_path / "control-blank_image-checkpoint-80").exists()


@pytest.mark.parametrize(
    ("policy", "changes"), [("other weights", {}), ("the weights", {"max_tokens": {"image_to_text": 7}})]
)
def test_controls_of_another_policy_or_with_other_settings_are_measured(controls_of, policy, changes):
    controls_of("final", "the weights")
    assert controls_of("checkpoint-80", policy, **changes) == (3, [])


@pytest.mark.parametrize(
    ("controls", "said"), [([*CONTROLS], []), (["sibling_title"], ["left out: control sibling_title: no variant"])]
)
def test_a_catalogue_without_variants_is_news_only_where_controls_are_chosen(controls_of, monkeypatch, controls, said):
    def known_answers(name, rows, **options):
        raise NoTitleBesideError(f"control {name}: no variant")

    monkeypatch.setattr(evaluator, "known_answers", known_answers)
    assert controls_of("final", "the weights", controls=controls)[1] == said


def test_a_second_evaluation_into_a_folder_is_told_who_holds_it(controls_of, tmp_path):
    folder = tmp_path / "control-blank_image-final" / "cqbench"
    with (
        hold(folder / evaluator.LOCK, refuse=AssertionError),
        pytest.raises(EvaluationError, match=r"in use by another evaluation of control-blank_image-final \(process"),
    ):
        controls_of("final", "the weights")
    assert controls_of("final", "the weights") == (3, [])
    assert not (folder / evaluator.LOCK).exists()
    (folder / "summary.json").write_text('{"key": ')  # half a file is no result, and no traceback
    assert controls_of("final", "the weights")[1] == []


def test_what_a_killed_evaluation_left_is_removed_also_when_it_had_been_finished(controls_of, tmp_path):
    folder = tmp_path / "control-blank_image-final" / "cqbench"
    folder.mkdir(parents=True)
    (folder / ".samples.parquet.0.partial").touch()
    controls_of("final", "the weights")
    assert not list(folder.glob(".*"))
    (folder / evaluator.LOCK).write_text("process 1 on a machine that is gone")
    assert controls_of("final", "the weights")[0] == 0
    assert not list(folder.glob(".*"))
