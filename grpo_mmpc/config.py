"""The one configuration object, and how YAML files and ``key=value`` overrides become one.

Files merge left to right, mappings key by key, everything else replaced. ``trainer`` and ``adapter`` hold the fields
of TRL's ``GRPOConfig`` and PEFT's ``LoraConfig`` under their own names and are checked where those libraries are loaded.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grpo_mmpc.errors import ConfigError

TaskName = Literal["image_to_text", "text_to_image"]
ControlName = Literal[
    "category_title", "other_title", "nearest_title", "blank_image", "shuffled_image", "raw_title", "nearest_image"
]
Check = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
"""A further check on the merged raw mapping: yields (dotted key, what is wrong and what to do)."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(_Section):
    """The policy before training."""

    name_or_path: str
    """Hub name, local folder, or an embedded model (``nano:qwen2_5_vl``, ``nano:gemma3``)."""
    init_kwargs: dict[str, Any] = {}
    """Passed to ``AutoModelForImageTextToText.from_pretrained`` as they are (dtype, attn_implementation, revision, ...)."""
    processor_kwargs: dict[str, Any] = {}
    """Passed to ``AutoProcessor.from_pretrained`` as they are (min_pixels, max_pixels, ...)."""
    image_attention: Literal["bidirectional", "causal"] | None = None
    """Gemma-3 only: whether image tokens see the image tokens after them. Null is the model's own way, bidirectional.
    Trainer and rollout engine must agree, and vLLM on a CPU can only do causal."""


class DataSection(_Section):
    """The catalogue and how it is split."""

    catalogue: str
    """Catalogue folder, or ``nano:catalogue`` for the embedded one."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of near-duplicate groups kept for evaluation."""
    salt: str = ""
    """Changes which items are held out."""
    max_train_items: Annotated[int, Field(gt=0)] | None = None
    """Train on at most this many items, chosen by stable hash."""


class RewardSpec(_Section):
    """One named reward of the mix."""

    name: str
    """A registered reward, ``module:factory`` or ``path/to/file.py:factory``."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """0 makes it a monitor: logged, never trained on."""
    kwargs: dict[str, Any] = {}
    """Arguments of the factory."""
    tasks: list[TaskName] | None = None
    """Tasks it is applied to; null means every task that the reward can score."""


class RewardsSection(_Section):
    """The reward mix."""

    aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """TRL's ``multi_objective_aggregation``."""
    on_error: Literal["raise", "unscored"] = "raise"
    """What a reward's exception or non-finite value does: stop the run, or count the completions as unscored."""
    mix: Annotated[list[RewardSpec], Field(min_length=1)]


class ParitySection(_Section):
    """The check that engine and policy are the same model, before training and after the first step."""

    enabled: bool = True
    rows: Annotated[int, Field(gt=0)] = 4
    """Prompts compared; the one with the largest image is always among them."""
    mean_tolerance: Annotated[float, Field(gt=0)] | None = None
    """Largest accepted mean difference of log-probabilities per token; null takes the default of the engine's dtype."""
    max_masked_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of tokens masked by importance-sampling correction above which an alarm is printed."""


class RolloutSection(_Section):
    """Where completions come from."""

    backend: Literal["transformers", "vllm"] = "transformers"
    mode: Literal["colocate", "server"] = "colocate"
    """vLLM only: an engine in every training process, or ``vllm serve`` processes reached over HTTP."""
    servers: list[str] = []
    """Server mode: base URLs (``http://host:8000``). Empty starts one server on this machine for the run."""
    server_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds to wait for a server to answer, at start and when it has gone away in the middle."""
    engine: dict[str, Any] = {}
    """vLLM ``EngineArgs`` fields, verbatim (gpu_memory_utilization, tensor_parallel_size, max_model_len, ...)."""
    sleep: bool = False
    """Colocate mode on GPUs: free the engine's memory between rollouts (sleep level 1)."""
    parity: ParitySection = ParitySection()


class EncodersSection(_Section):
    """Models that evaluation metrics need; null leaves the metric unscored."""

    bertscore: dict[str, Any] | None = {"model": "roberta-large"}
    """Arguments of the BERTScore encoder (model, num_layers, device)."""
    clip: dict[str, Any] | None = {"model": "openai/clip-vit-base-patch32"}
    """Arguments of the CLIP encoder (model, device)."""
    sentence: dict[str, Any] | None = {"model": "sentence-transformers/all-MiniLM-L6-v2"}
    """Arguments of the sentence encoder (model, device)."""
    dinov2: dict[str, Any] | None = {"model": "facebook/dinov2-base"}
    """Arguments of the DINOv2 encoder (model, device)."""
    lpips: dict[str, Any] | None = {}
    """Arguments of LPIPS (weights: a local file of AlexNet; null takes torch's cache or download)."""
    inception: dict[str, Any] | None = {}
    """Arguments of the Inception features behind KID and FID (weights: a local file; null as above)."""


class BestSection(_Section):
    """Which checkpoint is the best one, chosen on items that the comparison then leaves out."""

    metric: str
    """``TASK.METRIC``, for instance ``image_to_text.bertscore_f1``."""
    items: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the evaluated items that decide; choosing and reporting on the same items would flatter the choice."""


class EvaluationSection(_Section):
    """The evaluation suite: what the training hook and ``grpo-mmpc evaluate`` run."""

    suite: Literal["cqbench"] = "cqbench"
    mode: Literal["corrected", "paper"] = "corrected"
    """``paper`` scores as the official benchmark does, its flaws included."""
    tasks: list[TaskName] | None = None
    """Null means the tasks that are trained."""
    metrics: list[str] | None = None
    """Names of metrics; null means all of the mode."""
    items_per_category: Annotated[int, Field(gt=0)] = 1000
    """Held-out items per task and category, chosen by stable hash."""
    max_items: Annotated[int, Field(gt=0)] | None = None
    """Held-out items per task over all categories, balanced; null sets no further limit."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    """Prompts generated together."""
    max_tokens: dict[TaskName, Annotated[int, Field(gt=0)]] = {}
    """New tokens per task; the task's own limit where absent."""
    renderer: str | None = None
    """``nano``, ``diffusers`` or ``module:factory``; null leaves metrics on rendered images unscored."""
    renderer_kwargs: dict[str, Any] = {}
    """Arguments of the renderer (for ``diffusers``: model, init_kwargs, call_kwargs, batch_size, ...)."""
    controls: list[ControlName] = [
        "category_title",
        "other_title",
        "nearest_title",
        "blank_image",
        "shuffled_image",
        "raw_title",
        "nearest_image",
    ]
    """What needs no training, or no eyes, measured beside the policy; those of other tasks are left out."""
    best: BestSection | None = None
    """Compare and report the best checkpoint instead of the last one."""
    encoders: EncodersSection = EncodersSection()
    before: bool = True
    """Evaluate the base model before the first step."""
    checkpoints: bool = True
    """Evaluate after every saved checkpoint."""
    on_error: Literal["warn", "raise"] = "warn"
    """A failing evaluation is always loud; ``raise`` also stops training."""
    resamples: Annotated[int, Field(ge=100)] = 10_000
    """Bootstrap resamples of the comparison."""


class ReportSection(_Section):
    """The HTML report written at the end of a run."""

    enabled: bool = True


class RunConfig(_Section):
    """Everything that defines a run. ``config.yaml`` of the run folder holds it resolved."""

    run_dir: str
    """Folder that receives everything the run writes."""
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelSection
    adapter: dict[str, Any]
    """PEFT ``LoraConfig`` fields, verbatim."""
    data: DataSection
    tasks: Annotated[list[TaskName], Field(min_length=1)] = ["image_to_text"]
    rewards: RewardsSection
    rollout: RolloutSection = RolloutSection()
    trainer: dict[str, Any] = {}
    """TRL ``GRPOConfig`` fields, verbatim. ``output_dir``, ``seed`` and the reward weights are set from this file."""
    evaluation: EvaluationSection = EvaluationSection()
    report: ReportSection = ReportSection()

    @property
    def evaluation_tasks(self) -> list[TaskName]:
        """Tasks that the hook evaluates."""
        return self.evaluation.tasks or self.tasks

    def to_yaml(self) -> str:
        """The resolved configuration as YAML; loading it again gives an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-5`` is a number, ``no`` and ``on`` are words, and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"the key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads yes, no, on and off as booleans, which would turn save_strategy=no into False; YAML 1.2 does not.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
# YAML 1.1 reads 1e-5 as a string for want of a dot, which would reach the optimizer as text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def load_config(
    files: Sequence[Path | str], overrides: Sequence[str] = (), *, checks: Sequence[Check] = ()
) -> RunConfig:
    """Merge files and overrides, validate, and report every problem at once.

    Args:
        files: YAML files, merged left to right.
        overrides: ``dotted.key=value`` strings, applied last; the value is read as YAML. A number addresses an
            element of a list: ``rewards.mix.0.weight=0.5``.
        checks: Further checks run on the merged mapping, their findings reported together with the schema's.

    Raises:
        ConfigError: With all problems: where each comes from, what is wrong, the nearest known name.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for file in files:
        try:
            _merge(merged, _read_yaml(Path(file)), origins, source=str(file))
        except ConfigError as error:
            problems += error.problems
    for override in overrides:
        try:
            _apply_override(merged, override, origins)
        except ConfigError as error:
            problems += error.problems

    config = None
    found: list[tuple[str, str]] = []
    try:
        config = RunConfig.model_validate(merged)
    except ValidationError as error:
        found += [_explain(detail) for detail in error.errors()]
    for check in checks:
        found += check(merged)
    problems += [f"{_origin(key, origins)}{key}: {message}" for key, message in found]
    if problems or config is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    return config


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest known name, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file (working directory {Path.cwd()})"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: is a folder; a recipe is a YAML file"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"]) from error
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: expected a mapping of sections, found {type(content).__name__}"])
    return content


def _merge(
    target: dict[str, Any], update: Mapping[str, Any], origins: dict[str, str], *, source: str, prefix: str = ""
) -> None:
    for key, value in update.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            origins.setdefault(dotted, source)
            if not isinstance(target.get(key), dict):
                target[key] = {}
            _merge(target[key], value, origins, source=source, prefix=f"{dotted}.")
        else:
            target[key] = value
            origins[dotted] = source


def _apply_override(merged: dict[str, Any], override: str, origins: dict[str, str]) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            [f"{override!r}: neither a recipe file nor an override; overrides look like trainer.max_steps=500"]
        )
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError([f"{override!r}: the value is not valid YAML: {' '.join(str(error).split())}"]) from error
    *parents, last = key.split(".")
    node: Any = merged
    for part in parents:
        if isinstance(node, list):
            node = node[_index(part, node, override)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise ConfigError([f"{override!r}: {part!r} is a {type(node).__name__}, it has no keys"])
    if isinstance(node, list):
        node[_index(last, node, override)] = value
    else:
        node[last] = value
    origins[key] = "command line"


def _index(part: str, items: list[Any], override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError([f"{override!r}: {part!r} addresses a list of {len(items)}; use 0 to {len(items) - 1}"])
    return int(part)


def _explain(detail: Any) -> tuple[str, str]:
    """One pydantic finding as (dotted key, message)."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] == "extra_forbidden":
        return key, f"unknown key; {nearest(location[-1], _fields_at(location[:-1]))}"
    if detail["type"] == "missing":
        return key, "is required and missing"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return key, f"{message}, found {detail['input']!r}"


def _fields_at(location: Sequence[str]) -> list[str]:
    """Field names of the section at a location, following lists of sections."""
    section: type[BaseModel] = RunConfig
    for part in location:
        if part.isdigit() or part not in section.model_fields:
            continue
        section = next(iter(_sections_in(section.model_fields[part].annotation)), section)
    return list(section.model_fields)


def _sections_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _sections_in(argument)


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """``file: `` of the deepest part of the key whose origin is known."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        source = origins.get(".".join(parts[:end]))
        if source is not None:
            return f"{source}: "
    return ""
