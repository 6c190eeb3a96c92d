"""The nano CLIP: a real CLIPModel that tells nano products apart by every attribute."""

import copy
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.nano import texts as seller
from grpo_mmpc.nano.vocabulary import BRANDS_BY_CATEGORY, CATEGORY_BY_TYPE, KINDS, TYPES_BY_CATEGORY, VALUES
from grpo_mmpc.utils.cpu_compat import ensure_importable
from nano_weights import texts
from nano_weights.policy import IMAGE_SIZE_PX, PATCH_SIZE_PX
from nano_weights.tokenizer import CLIP_MAX_TOKENS
from nano_weights.training import ABSENT, Descent, attribute_labels, batches, cosine, process_images

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    from grpo_mmpc.nano.items import NanoItem

HIDDEN_SIZE = 128
PROJECTION_SIZE = 128
BATCH_SIZE = 64
PEAK_LR = 2e-3


def build_clip(tokenizer: "PreTrainedTokenizerFast", *, seed: int) -> tuple["CLIPModel", "CLIPProcessor"]:
    """Build an untrained CLIP of about 1.5M parameters in float32, and its processor."""
    import torch  # heavy: imported on use

    ensure_importable()
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tower = {"hidden_size": HIDDEN_SIZE, "intermediate_size": 3 * HIDDEN_SIZE, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={
            **tower,
            "num_hidden_layers": 3,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CLIP_MAX_TOKENS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**tower, "num_hidden_layers": 4, "image_size": IMAGE_SIZE_PX, "patch_size": PATCH_SIZE_PX},
        projection_dim=PROJECTION_SIZE,
    )
    torch.manual_seed(seed)  # the library draws the class embedding
    model = CLIPModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                # an embedding is looked up, not multiplied: its rows enter the sum as they are
                std = 0.3 if "embedding" in name and "patch" not in name else 1.0 / math.sqrt(parameter[0].numel())
                parameter.normal_(0.0, std, generator=generator)
    half = [0.5, 0.5, 0.5]
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE_PX},
        crop_size={"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX},
        image_mean=half,
        image_std=half,
    )
    return model, CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer)


def train_clip(
    model: "CLIPModel",
    processor: "CLIPProcessor",
    images: "np.ndarray[Any, Any]",
    items: Sequence["NanoItem"],
    *,
    steps: int,
    seed: int,
) -> None:
    """Contrast images with texts, each text also with a copy that has one attribute wrong.

    One set of linear attribute heads reads both towers' embeddings, which pulls the two into one
    space from the first step; the heads are thrown away. ``images`` are those of the N items,
    ``uint8 [N, 84, 84, 3]``.
    """
    import torch  # heavy: imported on use
    from torch.nn.functional import cross_entropy, normalize

    torch.manual_seed(seed)
    rng = random.Random(seed)
    heads = torch.nn.ModuleList([torch.nn.Linear(PROJECTION_SIZE, len(VALUES[kind])) for kind in KINDS])
    descent = Descent([*model.parameters(), *heads.parameters()], steps=steps)
    rows_of_batch = batches(len(items), BATCH_SIZE, rng)
    own = torch.arange(BATCH_SIZE)
    model.train()
    for step in range(steps):
        rows = next(rows_of_batch)
        said, wrong, named = zip(*(_texts(items[row], rng) for row in rows), strict=True)
        tokens = processor.tokenizer([*said, *wrong], padding=True, return_tensors="pt")
        image = model.get_image_features(pixel_values=process_images(processor, images[rows])).pooler_output  # [B, P]
        title = model.get_text_features(**tokens).pooler_output  # [2B, P]
        similarity = model.logit_scale.exp() * normalize(image, dim=-1) @ normalize(title, dim=-1).T  # [B, 2B]
        contrast = cross_entropy(similarity, own) + cross_entropy(similarity[:, :BATCH_SIZE].T, own)
        labels = attribute_labels([items[row] for row in rows])  # [B, kinds]
        spoken = torch.where(torch.tensor(named), labels, ABSENT)
        reading = image.new_zeros(())
        for column in range(len(KINDS)):
            read = heads[column](torch.cat([image, title[:BATCH_SIZE]]))  # [2B, values]
            reading = reading + cross_entropy(read, torch.cat([labels, spoken])[:, column], ignore_index=ABSENT)
        lr = cosine(step, steps, PEAK_LR, 0.02 * PEAK_LR, warmup=40)
        text = f"clip contrast {contrast.item():.3f} reading {reading.item():.3f}"
        descent.step(contrast + 0.5 * reading, lr=lr, detail=text)
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100.0))


def wrong_value(attributes: Mapping[str, str], kind: str, rng: random.Random) -> dict[str, str]:
    """Return attributes with another possible value of one kind; a pack may appear."""
    category = CATEGORY_BY_TYPE[attributes["type"]]
    choices = {
        "brand": BRANDS_BY_CATEGORY[category],
        "material": TYPES_BY_CATEGORY[category][attributes["type"]],
        "pack": VALUES["pack"][1:],
    }.get(kind, VALUES[kind])
    others = [value for value in choices if value != attributes.get(kind)]
    changed = {**attributes, kind: others[int(rng.random() * len(others))]}
    if kind == "type":  # keep the sentence possible: the new type's own category decides place and brands
        brands = BRANDS_BY_CATEGORY[CATEGORY_BY_TYPE[changed["type"]]]
        position = BRANDS_BY_CATEGORY[category].index(attributes["brand"])
        if "brand" in attributes and changed["brand"] not in brands:
            changed["brand"] = brands[position]
    return {k: changed[k] for k in KINDS if k in changed}


def save_clip(model: "CLIPModel", processor: "CLIPProcessor", folder: Path) -> None:
    """Write weights (float16), configuration and processor as ``from_pretrained`` reads them."""
    import torch  # heavy: imported on use

    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.float16).save_pretrained(folder)
    processor.save_pretrained(folder)


def load_clip(folder: Path | str) -> tuple["CLIPModel", "CLIPProcessor"]:
    """Load a saved nano CLIP in float32 and evaluation mode, and its processor."""
    import torch  # heavy: imported on use

    ensure_importable()
    from transformers import CLIPModel, CLIPProcessor

    return CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(), CLIPProcessor.from_pretrained(folder)


def measure_clip(folder: Path, items: Sequence["NanoItem"], *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Measure how often a nano CLIP prefers the truth to a text or image with one wrong attribute.

    Returns:
        ``title``, ``prompt`` (image against text), ``picture`` (image against image) -> kind ->
        share of items. A wrong ``pack`` of a single item is a pack that is none.
    """
    from grpo_mmpc.nano.drawing import draw  # heavy: imported on use

    rng = random.Random(seed)
    model, processor = load_clip(folder)
    images = embed_images(model, processor, [draw(item.attributes, jitter=item.jitter) for item in items])  # [N, P]
    table: dict[str, dict[str, float]] = {"title": {}, "prompt": {}, "picture": {}}
    for kind in KINDS:
        wrong = [wrong_value(item.attributes, kind, rng) for item in items]
        for name, phrase in (("title", _any_title), ("prompt", texts.image_prompt)):
            right_text = embed_texts(model, processor, [phrase(item.attributes) for item in items])
            wrong_text = embed_texts(model, processor, [phrase(attributes) for attributes in wrong])
            table[name][kind] = _share_closer(images, right=right_text, wrong=wrong_text)
        right_image, wrong_image = (
            embed_images(
                model, processor, [draw(a, jitter=item.jitter + 1) for a, item in zip(shown, items, strict=True)]
            )
            for shown in ([item.attributes for item in items], wrong)
        )
        table["picture"][kind] = _share_closer(images, right=right_image, wrong=wrong_image)
    return table


def embed_images(model: "CLIPModel", processor: "CLIPProcessor", images: Sequence["Image.Image"]) -> "torch.Tensor":
    """Return unit image embeddings, ``[N, P]``."""
    import torch  # heavy: imported on use
    from torch.nn.functional import normalize

    with torch.no_grad():
        pixels = processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


def embed_texts(model: "CLIPModel", processor: "CLIPProcessor", lines: Sequence[str]) -> "torch.Tensor":
    """Return unit text embeddings, ``[N, P]``; texts beyond 77 tokens are cut."""
    import torch  # heavy: imported on use
    from torch.nn.functional import normalize

    with torch.no_grad():
        tokens = processor.tokenizer(list(lines), padding=True, truncation=True, return_tensors="pt")
        return normalize(model.get_text_features(**tokens).pooler_output, dim=-1)


def _share_closer(anchor: "torch.Tensor", *, right: "torch.Tensor", wrong: "torch.Tensor") -> float:
    return float(((anchor * right).sum(-1) > (anchor * wrong).sum(-1)).float().mean())


def _any_title(attributes: Mapping[str, str]) -> str:
    """Write a seller's title, of the same style, series and selling point on every call."""
    return seller.seller_title(attributes, random.Random(0))


def _texts(item: "NanoItem", rng: random.Random) -> tuple[str, str, list[bool]]:
    """Return a text about an item, the text with one attribute wrong, and the kinds it states."""
    form, seed = rng.random(), int(rng.random() * 2**31)  # one seed for both texts: they state the same kinds

    def phrase(attributes: Mapping[str, str]) -> str:
        if form < 0.4:
            return seller.seller_title(attributes, random.Random(seed))
        if form < 0.75:
            return texts.image_prompt(attributes)
        return (texts.weak_caption if form < 0.9 else texts.weak_image_prompt)(attributes, random.Random(seed))

    said = phrase(item.attributes)
    stated = seller.read_attributes(said)
    # the type twice: it must not be wrong; a full text may also claim a pack that is none
    kinds = ["type", *(KINDS if "brand" in stated else stated)]
    wrong = phrase(wrong_value(item.attributes, kinds[int(rng.random() * len(kinds))], rng))
    return said, wrong, [kind in stated for kind in KINDS]
