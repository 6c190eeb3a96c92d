"""Rebuild the embedded models: ``python -m nano_weights.build`` (what ``make nano`` runs).

Everything is sampled from seeds, on one thread: the same machine and versions give the same
weights. ``--only`` builds one model, so that two can be built side by side on two cores.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nano_weights import texts
from nano_weights.policy import FAMILIES
from nano_weights.pool import POOL_SIZE, pretraining_items, unseen_items

if TYPE_CHECKING:
    from grpo_mmpc.nano.items import NanoItem
    from grpo_mmpc.utils.console import Say
    from nano_weights.pretrain import PretrainSettings

ASSETS = Path(__file__).parents[1] / "grpo_mmpc" / "nano" / "assets"
NUM_QUALITY_ITEMS = 360
"""Unseen items behind the quality tables: forty of each category."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nano_weights.build", description=__doc__)
    parser.add_argument("--only", choices=(*FAMILIES, "clip"), help="build this model only")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the assets (default: inside the package)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps only, to see that the build runs")
    options = parser.parse_args(arguments)
    import torch  # heavy: imported on use

    torch.set_num_threads(1)
    for name in [options.only] if options.only else [*FAMILIES, "clip"]:
        build(name, options.out / name, seed=options.seed, smoke=options.smoke)
    return 0


def build(name: str, folder: Path, *, seed: int, smoke: bool = False) -> None:
    """Build one embedded model into a folder, replacing what is there only when all is done."""
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"{name} {time.monotonic() - start:5.0f} s  {line}", flush=True)  # noqa: T201  (a command)

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        fresh = Path(scratch) / name
        if name == "clip":
            _build_clip(fresh, seed=seed, smoke=smoke, say=say)
        else:
            _build_policy(name, fresh, seed=seed, smoke=smoke, say=say)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(f"wrote {folder} ({size / 1e6:.1f} MB)")


def _build_policy(family: str, folder: Path, *, seed: int, smoke: bool, say: "Say") -> None:
    from nano_weights.policy import build_policy, build_processor, save_policy
    from nano_weights.pretrain import all_image_features, train_language, train_vision
    from nano_weights.quality import format_table, measure_policy, write_quality
    from nano_weights.tokenizer import train_policy_tokenizer
    from nano_weights.training import draw_images

    settings = policy_settings(family, seed=seed, smoke=smoke)
    items = pretraining_items(num_items=settings.num_items, seed=seed)
    tokenizer = train_policy_tokenizer(family, corpus(items, seed=seed))
    processor = build_processor(family, tokenizer)
    model = build_policy(family, tokenizer, seed=seed)
    say(
        f"{len(items)} items, {len(tokenizer)} tokens, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters"
    )
    images = draw_images(items)
    train_vision(model, processor, images, items, settings)
    shown = items[: settings.num_language_items]
    features = all_image_features(model, processor, images[: len(shown)])
    del images
    train_language(model, processor, features, shown, settings)
    save_policy(model, processor, folder)
    table = measure_policy(folder, unseen_items(num_items=18 if smoke else NUM_QUALITY_ITEMS), seed=seed)
    write_quality(folder, table)
    say("measured on items outside both the pool and the default catalogue:\n" + format_table(table))


def _build_clip(folder: Path, *, seed: int, smoke: bool, say: "Say") -> None:
    from nano_weights.clip import build_clip, measure_clip, save_clip, train_clip
    from nano_weights.quality import format_table, write_quality
    from nano_weights.tokenizer import train_clip_tokenizer
    from nano_weights.training import draw_images

    items = pretraining_items(num_items=256 if smoke else POOL_SIZE, seed=seed)
    model, processor = build_clip(train_clip_tokenizer(corpus(items, seed=seed)), seed=seed)
    say(f"{len(items)} items, {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters")
    images = draw_images(items)
    train_clip(model, processor, images, items, steps=4 if smoke else 700, seed=seed)
    save_clip(model, processor, folder)
    table = measure_clip(folder, unseen_items(num_items=18 if smoke else NUM_QUALITY_ITEMS), seed=seed)
    write_quality(folder, table)
    say("share of unseen items where the right text or image beats one with one wrong value:\n" + format_table(table))


def policy_settings(family: str, *, seed: int, smoke: bool = False) -> "PretrainSettings":
    """Return the settings that a policy of this family is pre-trained with."""
    from nano_weights.pretrain import Phase, PretrainSettings

    qwen = family == "qwen2_5_vl"
    return PretrainSettings(
        num_items=256 if smoke else POOL_SIZE,
        num_language_items=256 if smoke else 32_000,
        # rotary positions let Qwen's tower learn from fewer images, each twice as expensive
        vision_steps=4 if smoke else (1800 if qwen else 2700),
        # first read well in the seller's style, then settle on the gist
        phases=(
            Phase(steps=4 if smoke else 1700, seller_share=0.5, peak_lr=3e-3, final_lr=6e-4),
            Phase(steps=4 if smoke else 900, seller_share=0.35, peak_lr=6e-4, final_lr=1e-5),
        ),
        seed=seed,
    )


def corpus(items: Sequence["NanoItem"], *, seed: int, num_items: int = 4000) -> list[str]:
    """Write the training texts of a tokenizer: every kind of text about the first items."""
    rng = random.Random(seed)
    lines = []
    for item in items[:num_items]:
        lines += [item.title, texts.image_prompt(item.attributes)]
        lines += [texts.weak_caption(item.attributes, rng), texts.weak_image_prompt(item.attributes, rng)]
    return lines


if __name__ == "__main__":
    sys.exit(main())
