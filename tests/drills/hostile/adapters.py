"""Adapters and checkpoints from somebody else, or damaged on their way."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.drills.hostile.case import REFUSED, Case, Group, both, json_lines, write
from tests.drills.hostile.catalogue_rows import GOOD
from tests.drills.hostile.images import colours, saved

SHOP = both(
    write("shop/x.jpg", saved(colours())),
    write("shop/items.jsonl", json_lines(GOOD, GOOD | {"item_id": "odd", "title": None, "image": "x.jpg"})),
)
PLAIN = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "nano:qwen2_5_vl",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
}
MODULES = [f"base_model.model.model.language_model.layers.{layer}.self_attn.q_proj" for layer in range(4)]


class Command:
    """What a pickle can hold: a program that runs when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what unpickling calls."""
        import os

        return os.system, ("touch ran",)


def adapter(
    *, rename: tuple[str, str] = ("", ""), width: int = 192, cut: int = 0, fill: float = 0.0, **config: Any
) -> Callable[[Path], object]:
    """An adapter of the nano policy that changes nothing, with these changes."""

    def make(folder: Path) -> None:
        import numpy as np
        from safetensors.numpy import save

        a, b = np.full((4, width), fill, np.float32), np.zeros((192, 4), np.float32)
        tensors = {f"{m}.lora_A.weight".replace(*rename): a for m in MODULES}
        tensors |= {f"{m}.lora_B.weight".replace(*rename): b for m in MODULES}
        write("adapter/adapter_model.safetensors", save(tensors)[: -cut or None])(folder)
        write("adapter/adapter_config.json", json.dumps(PLAIN | config))(folder)

    return both(SHOP, make)


def without(name: str, *more: Callable[[Path], object]) -> Callable[[Path], object]:
    return both(adapter(), lambda folder: (folder / "adapter" / name).unlink(), *more)


ADAPTERS = Group(
    title="Adapters",
    command="complete shop --checkpoint adapter --out out --recipe $NANO",
    outcome=REFUSED,
    cases=[
        Case("no folder", SHOP, "adapter holds no adapter_config.json"),
        Case("no weights", without("adapter_model.safetensors"), "adapter holds no adapter_model.safetensors"),
        Case("no adapter_config.json", without("adapter_config.json"), "adapter holds no adapter_config.json"),
        Case(
            "a pickle that runs a program",
            without("adapter_model.safetensors", write("adapter/adapter_model.bin", pickle.dumps(Command()))),
            "adapter_model.bin, a pickle, which can execute code",
        ),
        Case(
            "a pickle named .safetensors",
            both(adapter(), write("adapter/adapter_model.safetensors", pickle.dumps(Command()))),
            "adapter_model.safetensors cannot be read",
        ),
        Case("weights without their end", adapter(cut=100), "adapter_model.safetensors cannot be read"),
        Case("0 bytes", both(adapter(), write("adapter/adapter_model.safetensors", b"")), "cannot be read"),
        Case("half of adapter_config.json", both(adapter(), write("adapter/adapter_config.json", "{")), "read as JSON"),
        Case("r: 2000000", adapter(r=2_000_000), "states rank 2000000, the weights beside it have rank 4"),
        Case("r: -1", adapter(r=-1), "whole numbers above 0"),
        Case("a pattern without end", adapter(rank_pattern={"(a+)+$": 4}), "is not a plain name of modules"),
        Case("another kind of adapter", adapter(peft_type="IA3"), "describes 'IA3'; only LoRA"),
        Case("keys of another model", adapter(rename=("layers", "blocks")), "8 of its 8 tensors are for modules"),
        Case("another size", adapter(width=64), "has shape (4, 64), its module takes 192 features"),
        Case("another base", adapter(base_model_name_or_path="nano:gemma3"), "which has other weights than"),
        Case("weights that are no numbers", adapter(fill=float("nan")), "lora_A.weight holds NaN or infinity"),
    ],
)

GROUPS = [ADAPTERS]
