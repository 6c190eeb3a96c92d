"""Folders of a base model, copied in part or made for something else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.drills.hostile.case import REFUSED, ROOT, Case, Group

NANO_MODEL = ROOT / "grpo_mmpc/nano/assets/qwen2_5_vl"


def changed(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """The nano policy in a folder of its own, then changed."""

    def make(folder: Path) -> None:
        change(Path(shutil.copytree(NANO_MODEL, folder / "model")))

    return make


def without(*names: str) -> Callable[[Path], object]:
    return changed(lambda model: [(model / name).unlink() for name in names])


def config(**values: object) -> Callable[[Path], object]:
    return changed(lambda model: (model / "config.json").write_text(json.dumps(values)))


def shards(model: Path) -> None:
    """Only the first of two files of weights."""
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {f"w{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
MODELS = Group(
    title="Folders of a model",
    command="train --check $NANO run_dir=run model.name_or_path=model",
    outcome=REFUSED,
    cases=[
        Case("no weights", without("model.safetensors"), "model holds no weights (model.safetensors)"),
        Case(
            "a pointer of Git LFS in the place of weights",
            changed(lambda model: (model / "model.safetensors").write_bytes(POINTER)),
            "model.safetensors is a pointer of Git LFS, not the weights: run git lfs pull",
        ),
        Case(
            "weights without their end",
            changed(lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:-500])),
            "model.safetensors cannot be read",
        ),
        Case(
            "one of two files of weights", changed(shards), "1 of 2 files of model.safetensors.index.json are missing"
        ),
        Case(
            "no files of the tokenizer, for which Transformers makes one of a single token",
            without("tokenizer.json", "tokenizer_config.json"),
            "its tokenizer knows no word, so its files (tokenizer.json) are missing",
        ),
        Case("no chat template", without("chat_template.jinja"), "its chat template cannot be used"),
        Case(
            "half a chat template",
            changed(lambda model: (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m")),
            "its chat template cannot be used",
        ),
        Case("no settings of the processor", without("processor_config.json"), "cannot load the processor"),
        Case("no config.json", without("config.json"), "cannot load the configuration"),
        Case("config.json of a kind that is not known", config(model_type="qwen9_vl"), "cannot load the configuration"),
        Case(
            "a model that reads no images",
            config(model_type="llama", hidden_size=64, num_attention_heads=2, num_hidden_layers=1, vocab_size=1024),
            "a model of type 'llama', which does not read images",
        ),
        Case(
            "code of its own, about which Transformers would ask on the terminal",
            config(model_type="x_vl", auto_map={"AutoConfig": "configuration_x.XConfig"}),
            "contains custom code ... Where you trust it, set trust_remote_code: true",
        ),
    ],
)

GROUPS = [MODELS]
