"""Pre-train a nano policy: first the vision tower on attributes, then the language model."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpo_mmpc.nano.vocabulary import KINDS, VALUES
from grpo_mmpc.tasks import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from nano_weights import texts
from nano_weights.policy import HIDDEN_SIZE, language_layers_only
from nano_weights.training import (
    ABSENT,
    KIND_WEIGHTS,
    Descent,
    attribute_labels,
    batches,
    cosine,
    process_images,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

    from grpo_mmpc.nano.items import NanoItem


BATCH_SIZE = 32
VISION_LR = 1e-3
IMAGE_SHARE = 0.8
"""Share of language batches that caption images; the rest turns titles into image prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of language training."""

    steps: int
    seller_share: float
    """Share of answers in the seller's style; the rest keeps the gist only."""
    peak_lr: float
    final_lr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSettings:
    """The sizes and seed of one build; smoke builds take few steps."""

    num_items: int
    """Size of the pre-training pool; the vision tower sees each image once or twice."""
    num_language_items: int
    """The number of them that the language model is trained on."""
    vision_steps: int
    phases: tuple[Phase, ...]
    seed: int


def train_vision(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    images: "np.ndarray[Any, Any]",
    items: Sequence["NanoItem"],
    settings: PretrainSettings,
) -> None:
    """Teach the vision tower every attribute through linear heads on its mean image token.

    Captions alone do not teach it: they name most attributes rarely, and a language model that sees
    noise learns to ignore the image. The heads are thrown away. ``images`` are those of the items,
    ``uint8 [N, 84, 84, 3]``.
    """
    import torch  # heavy: imported on use
    from torch.nn.functional import cross_entropy

    torch.manual_seed(settings.seed)
    heads = torch.nn.ModuleList([torch.nn.Linear(HIDDEN_SIZE, len(VALUES[kind])) for kind in KINDS])
    labels = attribute_labels(items)  # [N, kinds]
    vision = [p for name, p in model.named_parameters() if not language_layers_only(name)]
    steps = settings.vision_steps
    descent = Descent([*vision, *heads.parameters()], steps=steps)
    row_lists = batches(len(items), BATCH_SIZE, random.Random(settings.seed))
    model.train()
    for step in range(steps):
        rows = next(row_lists)
        features = image_features(model, process_images(processor, images[rows]))  # [B, 9, H]
        pooled = features.mean(dim=1)  # [B, H]
        losses, hits = [], {}
        for column, kind in enumerate(KINDS):
            logits, target = heads[column](pooled), labels[rows, column]
            losses.append(KIND_WEIGHTS[kind] * cross_entropy(logits, target, ignore_index=ABSENT))
            hits[kind] = (logits.argmax(-1) == target)[target != ABSENT].float().mean().item()
        loss = torch.stack(losses).sum()
        text = f"vision loss {loss.item():.3f}  " + " ".join(f"{k} {v:.2f}" for k, v in hits.items())
        descent.step(loss, lr=cosine(step, steps, VISION_LR, 0.02 * VISION_LR, warmup=40), detail=text)


def train_language(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    features: "torch.Tensor",
    items: Sequence["NanoItem"],
    settings: PretrainSettings,
) -> None:
    """Teach the language model both tasks on top of fixed image tokens, ``[N, 9, H]``."""
    import torch  # heavy: imported on use
    from torch.nn.functional import cross_entropy

    rng = random.Random(settings.seed + 1)
    encode = AnswerEncoder(processor)
    parameters = [p for name, p in model.named_parameters() if language_layers_only(name)]
    descent = Descent(parameters, steps=sum(phase.steps for phase in settings.phases))
    row_lists = batches(len(items), BATCH_SIZE, random.Random(settings.seed + 2))
    model.train()
    for index, phase in enumerate(settings.phases):
        for step in range(phase.steps):
            rows = next(row_lists)
            shows_image = rng.random() < IMAGE_SHARE
            pairs = [
                _example(items[row], shows_image=shows_image, seller_share=phase.seller_share, rng=rng) for row in rows
            ]
            input_ids, is_answer = encode(pairs, shows_image=shows_image)  # [B, L], [B, L]
            embeds = model.get_input_embeddings()(input_ids)
            if shows_image:
                start = encode.first_image_token
                tokens = features[rows]
                embeds = torch.cat([embeds[:, :start], tokens, embeds[:, start + tokens.shape[1] :]], dim=1)
            hidden = encode.hidden_states(model, embeds, shows_image=shows_image, rng=rng)  # [B, L, H]
            wanted = is_answer[:, 1:]
            logits = model.lm_head(hidden[:, :-1][wanted])  # [answer tokens, V]
            loss = cross_entropy(logits, input_ids[:, 1:][wanted])
            lr = cosine(step, phase.steps, phase.peak_lr, phase.final_lr, warmup=40 if index == 0 else 0)
            text = f"language phase {index + 1} {'image' if shows_image else 'title'} loss {loss.item():.3f}"
            descent.step(loss, lr=lr, detail=text)


class AnswerEncoder:
    """Encodes answers into training batches with exactly the prompts of the processor."""

    def __init__(self, processor: "ProcessorMixin") -> None:
        from PIL import Image

        self._processor = processor
        self._tokenizer = processor.tokenizer
        blank = Image.new("RGB", (84, 84))
        encoded = self._render(IMAGE_TO_TEXT.messages(), image=blank)
        self._image_prompt: list[int] = encoded["input_ids"][0].tolist()
        self._grid = encoded.get("image_grid_thw")
        self._token_types = encoded["mm_token_type_ids" if self._grid is not None else "token_type_ids"].long()
        self.first_image_token = int(self._token_types[0].argmax())
        """Position of the first image token in an image prompt."""

    def _render(self, messages: list[dict[str, Any]], *, image: Any = None) -> Any:
        text = self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        kwargs = {} if image is None else {"images": [image]}
        return self._processor(text=[text], add_special_tokens=False, return_tensors="pt", **kwargs)

    def __call__(
        self, pairs: Sequence[tuple[str | None, str]], *, shows_image: bool
    ) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Encode (title or None, answer) pairs, padded right: ids and answer mask, ``[B, L]``."""
        import torch

        answers = self._tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
        if shows_image:
            prompts = [self._image_prompt] * len(pairs)
        else:
            rendered = [
                self._processor.apply_chat_template(
                    TEXT_TO_IMAGE.messages(title=title), add_generation_prompt=True, tokenize=False
                )
                for title, _ in pairs
            ]
            prompts = self._tokenizer(rendered, add_special_tokens=False)["input_ids"]
        eos = self._tokenizer.eos_token_id
        length = max(len(p) + len(a) + 1 for p, a in zip(prompts, answers, strict=True))
        input_ids = torch.full((len(pairs), length), self._tokenizer.pad_token_id)
        is_answer = torch.zeros(len(pairs), length, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = [*prompt, *answer, eos]
            input_ids[row, : len(ids)] = torch.tensor(ids)
            is_answer[row, len(prompt) : len(ids)] = True
        return input_ids, is_answer

    def hidden_states(
        self, model: "PreTrainedModel", embeds: "torch.Tensor", *, shows_image: bool, rng: random.Random
    ) -> "torch.Tensor":
        """Run the language model, ``[B, L, H]``; padding is right, so a causal mask is enough."""
        import torch

        batch, length, _ = embeds.shape
        inner: Any = model.model
        arguments: dict[str, Any] = {"inputs_embeds": embeds, "use_cache": False}
        run = inner.language_model
        if shows_image and self._grid is not None:  # Qwen2.5-VL: time, height and width positions
            prompt = torch.tensor([self._image_prompt])
            tail = torch.zeros(1, length - prompt.shape[1], dtype=prompt.dtype)
            positions, _ = inner.get_rope_index(
                torch.cat([prompt, tail], dim=1),
                image_grid_thw=self._grid,
                mm_token_type_ids=torch.cat([self._token_types, tail], dim=1),
            )  # [3, 1, L]
            arguments["position_ids"] = positions.expand(-1, batch, -1)
        elif shows_image and rng.random() < 0.5:
            # Gemma-3: image tokens see each other in Transformers, not in all of vLLM: learn both
            run = inner
            arguments["token_type_ids"] = torch.zeros(batch, length, dtype=torch.long)
            arguments["token_type_ids"][:, : self._token_types.shape[1]] = self._token_types
        hidden: torch.Tensor = run(**arguments).last_hidden_state
        return hidden


def _example(item: "NanoItem", *, shows_image: bool, seller_share: float, rng: random.Random) -> tuple[str | None, str]:
    """Return one (title, answer) pair; the title is None where the prompt shows the image."""
    seller = rng.random() < seller_share
    if shows_image:
        caption = item.title if seller else texts.weak_caption(item.attributes, rng)
        return None, IMAGE_TO_TEXT.answer(caption)
    prompt = texts.image_prompt(item.attributes) if seller else texts.weak_image_prompt(item.attributes, rng)
    return item.title, TEXT_TO_IMAGE.answer(prompt)


def image_features(model: "PreTrainedModel", pixels: "torch.Tensor") -> "torch.Tensor":
    """Return image tokens as the language model receives them, ``[B, 9, H]``."""
    import torch  # heavy: imported on use

    inner: Any = model.model
    if pixels.dim() == 4:
        features: torch.Tensor = inner.get_image_features(pixels).pooler_output
        return features
    grid = torch.tensor([[1, 6, 6]] * len(pixels))
    return torch.stack(list(inner.get_image_features(pixels.flatten(0, 1), grid).pooler_output))


def all_image_features(
    model: "PreTrainedModel", processor: "ProcessorMixin", images: "np.ndarray[Any, Any]"
) -> "torch.Tensor":
    """Return image tokens of every image without gradient, ``[N, 9, H]``."""
    import torch  # heavy: imported on use

    model.eval()
    with torch.no_grad():
        return torch.cat(
            [
                image_features(model, process_images(processor, images[start : start + 256]))
                for start in range(0, len(images), 256)
            ]
        )
