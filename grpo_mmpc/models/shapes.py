"""The sizes of a model, without its weights: what a plan of memory and time is computed from.

The sizes of the models that recipes name are in ``published.json``, so that planning needs neither
network nor PyTorch; those of any other model are read from its skeleton.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models.families import LANGUAGE
from grpo_mmpc.utils.content import refuse_unreachable
from grpo_mmpc.utils.model_paths import resolve_model

if TYPE_CHECKING:
    from grpo_mmpc.config import ModelSection
    from grpo_mmpc.config.sections import AdapterSection

PUBLISHED = Path(__file__).with_name("published.json")
"""What ``shape_of`` returns of each as ``asdict`` writes it, by its name on the hub."""
_LANGUAGE_LAYER = re.compile(rf"model\.(?:{'|'.join(LANGUAGE)})\.layers\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Linear layers of one name in every block, with ``*`` for the block's number."""

    name: str
    in_features: int
    out_features: int
    count: int

    @property
    def is_language(self) -> bool:
        """True in the blocks of the language model, False in a tower, projector or head."""
        return _LANGUAGE_LAYER.match(self.name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a model's configuration says about its size."""

    model_type: str
    parameters: int
    layers: int
    """Blocks of the language model."""
    hidden: int
    vocabulary: int
    patches_width: int
    """Elements that the vision tower holds at once for one patch of an image."""
    linears: Sequence[Linear]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ModelShape":
        """Read what ``asdict`` has written."""
        return cls(**{**content, "linears": [Linear(**linear) for linear in content["linears"]]})

    @property
    def language_linears(self) -> list[Linear]:
        """Those of the language model's blocks."""
        return [linear for linear in self.linears if linear.is_language]

    @property
    def language_weights(self) -> int:
        """Parameters of the linear layers of the language model's blocks."""
        return sum(linear.in_features * linear.out_features * linear.count for linear in self.language_linears)

    @property
    def key_value_elements(self) -> int:
        """Elements of the KV cache for one token, all layers together."""
        return sum(
            linear.out_features * linear.count
            for linear in self.language_linears
            if linear.name.endswith(("k_proj", "v_proj"))
        )

    @property
    def block_width(self) -> float:
        """Elements that the average block keeps for one token while its gradient is computed."""
        return sum(linear.out_features * linear.count for linear in self.language_linears) / self.layers + (
            4 * self.hidden
        )

    def adapter_parameters(self, adapter: "AdapterSection") -> int:
        """Count the parameters of a LoRA on this model: r (in + out) for every adapted layer."""
        options = adapter.options()
        ranks = options.get("rank_pattern") or {}
        return sum(
            _rank(linear.name, ranks, adapter.r) * (linear.in_features + linear.out_features) * linear.count
            for linear in self.linears
            if _is_adapted(linear.name, adapter.target_modules)
        )


def read_shape(section: "ModelSection") -> ModelShape:
    """Return the sizes of a recipe's base model, published ones without reading anything of it.

    Raises:
        TrainingError: The configuration of a model that is not published here cannot be had.
    """
    known = _published().get(section.name_or_path)
    if known is not None:
        return ModelShape.from_json(known)
    # heavy: imported on use
    from grpo_mmpc.models.policy import cannot_load, model_skeleton

    try:
        refuse_unreachable(resolve_model(section.name_or_path))
        return shape_of(model_skeleton(section))
    except (OSError, ValueError, ImportError, KeyError) as error:
        source = resolve_model(section.name_or_path)
        raise TrainingError(cannot_load("configuration", section.name_or_path, source, error)) from error


def shape_of(model: Any) -> ModelShape:
    """Return the sizes of a model that may have no weights."""
    # heavy: imported on use
    from torch import nn

    config = model.config
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    counted = Counter(
        (re.sub(r"\.\d+\.", ".*.", name), module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    )
    return ModelShape(
        model_type=config.model_type,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        patches_width=0 if vision is None else _vision_width(vision),
        linears=[
            Linear(name=name, in_features=inward, out_features=outward, count=count)
            for (name, inward, outward), count in counted.items()
        ],
    )


def _vision_width(vision: Any) -> int:
    sizes = {name: getattr(vision, name, None) or 0 for name in ("hidden_size", "embed_dim", "intermediate_size")}
    hidden = sizes["hidden_size"] or sizes["embed_dim"]
    return int(2 * (sizes["intermediate_size"] or 4 * hidden) + 6 * hidden)


@cache
def _published() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads(PUBLISHED.read_text("utf-8"))
    return content


def _is_adapted(name: str, targets: str | list[str] | None) -> bool:
    """Return whether PEFT adapts a layer: a pattern matches whole names, a list their ends."""
    plain = name.replace("*", "0")
    if targets is None:
        return False
    if targets == "all-linear":
        return not name.startswith("lm_head")
    if isinstance(targets, str):
        return re.fullmatch(targets, plain) is not None
    return any(plain == target or plain.endswith(f".{target}") for target in targets)


def _rank(name: str, ranks: Mapping[str, int], default: int) -> int:
    plain = name.replace("*", "0")
    return next((rank for key, rank in ranks.items() if re.match(rf"(.*\.)?({key})$", plain)), default)
