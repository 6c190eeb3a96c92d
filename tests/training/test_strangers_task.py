"""A task and a model family of one's own, with the files of ``docs/tasks.md`` and nothing else."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.cli import main
from tests.training.tiny_families import write_model

ROOT = Path(__file__).parents[2]
FEW = ["data.held_out=0.25", "trainer.max_steps=2", "trainer.save_steps=2", "trainer.num_generations=4"]


def documented(name: str) -> str:
    """The YAML of the page that begins with the name of its file."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/tasks.md").read_text("utf-8"), flags=re.DOTALL)
    (block,) = (block for block in blocks if block.startswith(f"# {name}\n"))
    return str(block)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A shop with German descriptions, a tiny LLaVA, and the two files."""
    (tmp_path / "laden/images").mkdir(parents=True)
    items = []
    for i, kind in enumerate(["Becher", "Tasche", "Lampe", "Stuhl"] * 6):
        Image.effect_noise((84, 84), 20 + 3 * i).convert("RGB").save(tmp_path / f"laden/images/{i}.png")
        texts = {"title": f"{kind} Nr. {i}", "description": f"Ein grüner {kind} mit der Nummer {i}. Er paßt überall."}
        items.append({"item_id": str(i), "category": kind, "image": f"images/{i}.png", **texts})
    items[0]["description"] = None
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items]
    (tmp_path / "laden/items.jsonl").write_text("".join(lines), encoding="utf-8")
    write_model("llava", tmp_path / "tiny_llava")
    for name in ("german_description.yaml", "my_recipe.yaml"):
        (tmp_path / name).write_text(documented(name), encoding="utf-8")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_german_description_by_a_llava_needs_two_yaml_files(folder, capsys):
    own = ["model.name_or_path=tiny_llava", "data.catalogue=laden", "trainer.per_device_train_batch_size=8", *FEW]
    assert main(["train", "my_recipe.yaml", *own, "--check"]) == 0
    assert main(["train", "my_recipe.yaml", *own]) == 0
    run = folder / "runs/german"
    summary = json.loads((run / "evaluations/final/cqbench/summary.json").read_text("utf-8"))
    assert list(summary["tasks"]) == ["german_description"]
    assert "German description" in (run / "report.html").read_text("utf-8")
    checkpoint = ["--checkpoint", str(run / "checkpoints/checkpoint-2")]
    assert main(["evaluate", str(run / "config.yaml"), *checkpoint, "--out", "evaluated"]) == 0
    capsys.readouterr()
    assert main(["complete", "laden", "--out", "filled", *checkpoint]) == 0
    assert "24 rows, 1 without description; 0 set aside" in capsys.readouterr().out
    assert len(load_catalogue(folder / "filled")) == 24
