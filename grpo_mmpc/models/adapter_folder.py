"""An adapter's folder is data, a stranger's perhaps: read within limits, and held to the model.

PEFT takes much on trust: a rank that no weights bear out is allocated, names are matched by any
regular expression, and weights that fit no module are left out after a warning, so that the base
model answers in the adapter's name.
"""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import AdapterError, first_line
from grpo_mmpc.models.identity import base_model_identity, is_whole_model, weight_files
from grpo_mmpc.utils.model_paths import resolve_model

if TYPE_CHECKING:
    from grpo_mmpc.config import ModelSection

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MAX_CONFIG_BYTES = 2**20
_PREFIX = "base_model.model."
_SIDES = re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)(?:\.weight)?$")
_SELECTIONS = ("exclude_modules", "layers_to_transform", "layers_pattern", "layer_replication", "target_parameters")
"""Fields that choose among modules, beside ``target_modules``; the names of the weights say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A LoRA adapter on disk, checked without a model."""

    folder: Path
    config: Mapping[str, Any]
    """``adapter_config.json`` with ``target_modules`` as the weights name them."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every tensor, by its name in the file."""

    @property
    def modules(self) -> dict[str, str]:
        """Return the module of the base model that each tensor is for, by the tensor's name."""
        return {name: _module_of(name) for name in self.shapes}

    @property
    def rank(self) -> int:
        """Return the greatest rank that its configuration states."""
        return int(max([self.config["r"], *(self.config.get("rank_pattern") or {}).values()]))


def open_adapter(folder: Path) -> AdapterFolder:
    """Read and check an adapter's folder; no model is needed, and nothing in it is executed.

    Raises:
        AdapterError: There is no adapter, or one that cannot be used as it is.
    """
    config = parse_config(_read_config(folder), where=str(folder / CONFIG))
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickled = [path.name for path in folder.glob("adapter_model.*")]
        raise AdapterError(
            f"{folder} holds no {WEIGHTS}"
            + (
                f", but {pickled[0]}, a pickle, which can execute code while it is read; load it with PEFT where you "
                "trust it, and save it by save_pretrained, which writes safetensors"
                if pickled
                else "; copy the whole checkpoint folder"
            )
        )
    shapes = _shapes(weights)
    ranks = {shape[0] for name, shape in shapes.items() if name.endswith((".lora_A.weight", ".lora_A"))}
    modules = sorted({_module_of(name) for name in shapes if is_side(name)})
    plain = {**config, "target_modules": modules, **dict.fromkeys(_SELECTIONS)}
    opened = AdapterFolder(folder=folder, config=plain, shapes=shapes)
    if not ranks or opened.rank > max(ranks):
        raise AdapterError(
            f"{folder / CONFIG} states rank {opened.rank}, the weights beside it have "
            f"{f'rank {max(ranks)}' if ranks else 'no LoRA'}: the two files do not belong together; copy them again"
        )
    return opened


def open_checkpoint(checkpoint: Path) -> AdapterFolder | None:
    """Check the checkpoint of a policy; returns its adapter, None if it is a whole model.

    Raises:
        AdapterError: It is neither, or cannot be used as it is.
    """
    if not is_whole_model(checkpoint):
        return open_adapter(checkpoint)
    files = weight_files(checkpoint)
    if not files or not all(file.is_file() and file.parent == checkpoint for file in files):  # an index may name any
        raise AdapterError(
            f"{checkpoint} has the config.json of a whole model and lacks weights; copy the whole folder"
        )
    return None


def parse_config(content: bytes, *, where: str) -> dict[str, Any]:
    """Return an ``adapter_config.json`` that is a LoRA's, within limits.

    Raises:
        AdapterError: It is damaged, no LoRA, or made to exhaust.
    """
    if len(content) > _MAX_CONFIG_BYTES:
        raise AdapterError(f"{where} has {len(content):,} bytes; an adapter's configuration has a few thousand")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{where} cannot be read as JSON ({first_line(error)[:200]}); copy it again") from error
    if not isinstance(config, dict) or config.get("peft_type") not in ("LORA", None):
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise AdapterError(f"{where} describes {kind!r}; only LoRA adapters are used here")
    patterns = [config.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    if not all(isinstance(pattern, dict) for pattern in patterns):
        raise AdapterError(f"{where}: rank_pattern and alpha_pattern map names of modules to numbers")
    numbers = [config.get("r"), *patterns[0].values()]
    if not all(isinstance(number, int) and 0 < number for number in numbers):
        raise AdapterError(f"{where}: r and the values of rank_pattern must be whole numbers above 0, found {numbers}")
    for key in (key for pattern in patterns for key in pattern):
        # PEFT matches them as regular expressions: no groups, few repetitions, so that each ends.
        if len(key) > 200 or re.search(r"[()\[{]", key) or len(re.findall(r"[*+?]", key)) > 2:
            raise AdapterError(f"{where}: {key[:80]!r} is not a plain name of modules; write their names out")
    return config


def is_side(tensor: str) -> bool:
    """Return whether a tensor's name is that of a LoRA's matrix or magnitudes."""
    return _SIDES.search(tensor) is not None


def check_fits(adapter: AdapterFolder, model: Any) -> None:
    """Hold an adapter to a model: a module of the right size for every tensor, and numbers in it.

    Raises:
        AdapterError: It was made for another model, or broke in training; names tensors and
            modules.
    """
    # heavy: imported on use
    from safetensors import safe_open

    known = dict(model.named_modules())
    strange = [name for name, module in adapter.modules.items() if module not in known]
    if strange:
        similar = difflib.get_close_matches(_module_of(strange[0]), known, n=1)
        raise AdapterError(
            f"{adapter.folder} does not fit {type(model).__name__}: {len(strange)} of its {len(adapter.shapes)} "
            f"tensors are for modules that the model does not have, such as {strange[0]}"
            + (f" (the model has {similar[0]})" if similar else "")
            + ". Without them the base model would answer; give the adapter of this model, or set model.name_or_path "
            "to the adapter's base"
        )
    for name, shape in adapter.shapes.items():
        module, side = known[adapter.modules[name]], ".lora_A" in name
        expected = getattr(module, "in_features" if side else "out_features", None)
        if expected is not None and ".lora_" in name and shape[-1 if side else 0] != expected:
            raise AdapterError(
                f"{adapter.folder} does not fit {type(model).__name__}: {name} has shape {shape}, its module "
                f"{'takes' if side else 'gives'} {expected} features; set model.name_or_path to the adapter's base"
            )
    with safe_open(adapter.folder / WEIGHTS, framework="pt") as file:
        broken = next((name for name in adapter.shapes if not file.get_tensor(name).isfinite().all()), None)
    if broken is not None:
        raise AdapterError(f"{adapter.folder}: {broken} holds NaN or infinity; give an earlier checkpoint of the run")


def check_base(adapter: AdapterFolder, section: "ModelSection") -> str | None:
    """Hold an adapter's base model to the recipe's, by content where both lie on this machine.

    Returns:
        A warning where that cannot be told, else None.

    Raises:
        AdapterError: The two are different models.
    """
    stated, name = adapter.config.get("base_model_name_or_path"), section.name_or_path
    if not isinstance(stated, str) or not stated or stated in (name, resolve_model(name)):
        return None
    ours = base_model_identity(resolve_model(name), revision=section.init_kwargs.get("revision"))
    theirs = base_model_identity(resolve_model(stated), revision=adapter.config.get("revision"))
    if ours is not None and theirs is not None and ours != theirs:
        raise AdapterError(
            f"{adapter.folder} was trained on {stated}, which has other weights than model.name_or_path={name}; set "
            f"model.name_or_path={stated}, or, to use it all the same, remove base_model_name_or_path from its {CONFIG}"
        )
    if ours is not None and theirs == ours:
        return None
    return f"{adapter.folder} was trained on {stated}; whether {name} is that model cannot be told from here"


def refuse_adapter_as_model(name: str) -> None:
    """Refuse an adapter's folder in the place of its base model.

    Transformers loads it with its base, and a trainer puts a new adapter in its place, both without
    a word.

    Raises:
        AdapterError: The folder holds an adapter.
    """
    folder = Path(resolve_model(name))
    if not (folder / CONFIG).is_file():
        return
    base = parse_config(_read_config(folder), where=str(folder / CONFIG)).get("base_model_name_or_path")
    raise AdapterError(
        f"model.name_or_path={name} is an adapter, not a model: set model.name_or_path to its base ({base}), and give "
        f"the adapter to evaluate or complete as --checkpoint {name}; to train on from it, set model.init_from={name}"
    )


def _read_config(folder: Path) -> bytes:
    path = folder / CONFIG
    if not path.is_file():
        steps = [path.parent for path in folder.glob(f"checkpoints/checkpoint-*/{CONFIG}")]
        if steps:
            newest = max(steps, key=lambda path: (len(path.name), path.name))
            raise AdapterError(f"{folder} is a run folder; give one of its checkpoints, such as {newest}")
        raise AdapterError(
            f"{folder} holds no {CONFIG}; give a checkpoint folder such as RUN/checkpoints/checkpoint-80"
        )
    with path.open("rb") as file:
        return file.read(_MAX_CONFIG_BYTES + 1)


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    # heavy: imported on use
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{weights} cannot be read ({first_line(error)}); copy the checkpoint again") from error


def _module_of(tensor: str) -> str:
    name = tensor.removeprefix(_PREFIX)
    return _SIDES.sub("", name) if is_side(name) else name.rpartition(".")[0]
