"""``grpo-mmpc rewards`` as a stranger uses it."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from grpo_mmpc.cli import main
from grpo_mmpc.rewards import registered_rewards

OWN = Path(__file__).parents[1] / "analysis" / "reward_bench" / "own_rewards.py"


def test_the_list_has_one_aligned_line_for_each_reward(capsys):
    assert main(["rewards", "list"]) == 0
    said = capsys.readouterr().out
    table = said.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in table] == ["name", *sorted(registered_rewards())]
    starts = {line.index(word) for line in table for word in re.findall(r"range|\[-?\d", line)[:1]}
    assert len(starts) == 1
    assert "`" not in said
    assert re.search(r"^bleu +\[0, 1\] +text +reference +The smoothed", said, re.MULTILINE)


def test_on_a_narrow_terminal_what_a_reward_needs_hangs_in_its_column(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["rewards", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = (line for line in lines if line.startswith("cycle_consistency"))
    assert lines[lines.index(first) + 1] == " " * first.index("reference") + "renderer"
    assert max(map(len, lines)) <= 80


def test_the_verbose_list_shows_factories_with_their_arguments(capsys):
    assert main(["rewards", "list", "--verbose"]) == 0
    assert "bertscore(*, model: str = 'roberta-large'" in capsys.readouterr().out


def test_a_new_reward_runs_passes_its_test_and_stands_in_a_recipe(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["rewards", "new", "word_recall"]) == 0
    said = capsys.readouterr().out
    (line,) = [line.strip() for line in said.splitlines() if line.strip().startswith("- {")]
    assert yaml.safe_load(line) == [{"name": "word_recall.py:word_recall", "weight": 0.1}]
    text = (tmp_path / "word_recall.py").read_text("utf-8")
    for part in ("Range: ", "Needs: ", "Cost: ", "Gamed by: ", "def word_recall("):
        assert part in text
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_word_recall.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_a_new_reward_replaces_nothing_and_needs_a_name_that_python_takes(tmp_path, capsys):
    def refused(name: str, folder: Path = tmp_path) -> str:
        assert main(["rewards", "new", name, "--dir", str(folder)]) == 2
        return capsys.readouterr().err

    assert "such as brand_match" in refused("brand-match")
    assert "such as reward_2fast" in refused("2fast")
    assert "'class' cannot be the name" in refused("class")
    assert "'bleu' is an installed reward already" in refused("bleu")
    assert "nowhere is not a folder" in refused("mine", tmp_path / "nowhere")
    (tmp_path / "test_mine.py").write_text("precious")
    assert f"{tmp_path / 'test_mine.py'} exists and is left as it is" in refused("mine")
    assert not (tmp_path / "mine.py").exists()
    assert (tmp_path / "test_mine.py").read_text() == "precious"


@pytest.fixture(scope="module")
def looked(small_catalogue, tmp_path_factory) -> Path:
    """A folder with a preview of rewards whose faults are known."""
    folder = tmp_path_factory.mktemp("preview")
    weights = {"exact": 1.0, "longer": 0.001, "lucky": 0.0, "broken": 0.0, "half_blind": 0.0}
    specs = [{"name": f"{OWN}:{name}", "weight": weight} for name, weight in weights.items()]
    specs.append({"name": "bleu", "weight": 0.0})
    mix = folder / "mix.yaml"
    mix.write_text(yaml.safe_dump({"tasks": ["image_to_text", "text_to_image"], "rewards": {"mix": specs}}))
    words = ["--catalogue", str(small_catalogue), "--mix", str(mix), "--items", "18", "--out", str(folder / "out")]
    assert main(["rewards", "preview", *words]) == 0
    return folder / "out"


def rewards_of(folder: Path) -> dict[str, dict]:
    content = json.loads((folder / "preview.json").read_text("utf-8"))
    return {reward["name"]: reward for reward in content["rewards"]}


def test_a_preview_shows_what_fools_each_reward(looked):
    found = rewards_of(looked)
    exact, longer = (
        found["exact"]["tasks"]["image_to_text"]["kinds"],
        found["longer"]["tasks"]["image_to_text"]["kinds"],
    )
    assert all(exact[kind]["auc"] == exact[kind]["wins"] == 1.0 for kind in exact if kind != "gold")
    assert (longer["over_long"]["auc"], longer["truncated"]["auc"], longer["empty"]["auc"]) == (0.0, 1.0, 1.0)
    assert longer["word_shuffled"]["auc"] == longer["word_shuffled"]["wins"] == 0.5
    assert found["bleu"]["tasks"]["image_to_text"]["kinds"]["word_shuffled"]["wins"] == 1.0
    assert set(found["exact"]["tasks"]) == {"image_to_text"}
    assert set(found["longer"]["tasks"]) == {"image_to_text", "text_to_image"}


def test_the_mix_is_the_weighted_sum(looked):
    mix = rewards_of(looked)["mix"]["tasks"]["image_to_text"]["kinds"]
    exact, longer = (rewards_of(looked)[name]["tasks"]["image_to_text"]["kinds"] for name in ("exact", "longer"))
    for kind in mix:
        assert mix[kind]["mean"] == pytest.approx(exact[kind]["mean"] + 0.001 * longer[kind]["mean"])


def test_a_preview_tells_luck_silence_and_failure(looked):
    found = rewards_of(looked)
    assert found["longer"]["deterministic"] is True
    assert found["bleu"]["deterministic"] is True
    assert found["lucky"]["deterministic"] is False
    assert 0 < found["half_blind"]["tasks"]["image_to_text"]["unscored_share"] < 1
    assert found["broken"]["tasks"] == {}
    assert "weights.bin is not there" in found["broken"]["problem"]
    assert found["longer"]["timing"]["warm"] >= 0


def test_the_table_of_a_preview_holds_the_same_numbers(looked):
    with (looked / "preview.csv").open(newline="") as file:
        rows = {(row["task"], row["reward"], row["kind"]): row for row in csv.DictReader(file)}
    assert float(rows["image_to_text", "longer", "truncated"]["auc"]) == 1.0
    assert rows["image_to_text", "exact", "gold"]["auc"] == ""
    page = (looked / "preview.html").read_text("utf-8")
    assert "http" not in page.replace("http-equiv", "")
    assert "weights.bin is not there" in page


def test_the_terminal_marks_what_fools_a_reward_and_uses_no_colours_in_a_file(small_catalogue, tmp_path, capsys):
    words = ["--catalogue", str(small_catalogue), "--items", "6", "--out", str(tmp_path / "out"), "--mix"]
    mix = tmp_path / "mix.yaml"
    mix.write_text(yaml.safe_dump({"rewards": {"mix": [{"name": f"{OWN}:longer", "weight": 1.0}]}}))
    assert main(["rewards", "preview", *words, str(mix)]) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("longer") and "!" in line]
    assert line.split()[-1] == "0.00!"  # over-long answers
    assert "\x1b" not in said
    assert max(len(line) for line in said.splitlines() if str(tmp_path.parent) not in line) <= 110


def test_a_preview_without_anything_to_score_is_refused(small_catalogue, tmp_path, capsys):
    def refused(*words: str) -> str:
        assert main(["rewards", "preview", "--out", str(tmp_path / "out"), *words]) == 2
        return capsys.readouterr().err

    mix = tmp_path / "mix.yaml"
    mix.write_text(yaml.safe_dump({"rewards": {"mix": [{"name": "blue", "weight": 1.0}]}}))
    said = refused("--catalogue", str(small_catalogue), "--mix", str(mix))
    assert "no reward could be scored" in said
    assert "did you mean 'bleu'?" in said
    assert "does not exist" in refused("--catalogue", str(tmp_path / "nowhere"), "--mix", str(mix))
    mix.write_text(yaml.safe_dump({"rewards": {"mix": [{"name": "bleu", "weight": -1.0}]}}))
    assert "rewards.mix.0.weight" in refused("--catalogue", str(small_catalogue), "--mix", str(mix))
    assert not (tmp_path / "out").exists()
