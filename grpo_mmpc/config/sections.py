"""The sections of a recipe, and ``RunConfig``, which holds them all."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from grpo_mmpc.config.problems import nearest
from grpo_mmpc.config.rewards import RewardsSection
from grpo_mmpc.config.section import PassThroughSection, Section
from grpo_mmpc.metrics.constraints import Constraints
from grpo_mmpc.tasks.task import NAME, SHIPPED, TASKS, Task
from grpo_mmpc.utils.secrets import yaml_without_secrets

ControlName = Literal[
    "category_title",
    "other_title",
    "nearest_title",
    "sibling_title",
    "blank_image",
    "shuffled_image",
    "raw_title",
    "nearest_image",
]


_OWN_TASK = "a task of your own is a file, given as my_task.yaml beside the recipe"


class ModelSection(Section):
    """The policy before training."""

    name_or_path: str
    """Hub name, local folder, or an embedded model (``nano:qwen2_5_vl``, ``nano:gemma3``)."""
    init_from: str | None = None
    """Folder of a LoRA adapter to go on from, such as a checkpoint of a run: it is what "before
    training" means, in evaluations and to ``trainer.beta``. Null starts from the base model."""
    init_kwargs: dict[str, Any] = {}
    """Passed to ``AutoModelForImageTextToText.from_pretrained`` as they are (dtype,
    attn_implementation, revision, ...)."""
    processor_kwargs: dict[str, Any] = {}
    """Passed to ``AutoProcessor.from_pretrained`` as they are (min_pixels, max_pixels, ...)."""
    quantization: Literal["nf4"] | None = None
    """``nf4`` loads the language model's linear layers in 4 bits (bitsandbytes, QLoRA); vision
    tower, projector, embeddings and head keep ``init_kwargs.dtype``."""
    image_attention: Literal["bidirectional", "causal"] | None = None
    """Gemma-3 and the larger Gemma-4: whether image tokens see the image tokens after them. Null is
    the model's own way, bidirectional. Trainer and rollout engine must agree, and vLLM on a CPU can
    only do causal."""


class AdapterSection(PassThroughSection):
    """PEFT ``LoraConfig`` fields under their own names.

    Those below are the ones that recipes set.
    """

    r: Annotated[int, Field(gt=0)] = 8
    """Rank of the update."""
    lora_alpha: Annotated[int | float, Field(gt=0)] = 8
    """The update is scaled by ``lora_alpha / r``."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | list[str] | None = None
    """A pattern over module names, a list of names, or ``all-linear``."""


class DataSection(Section):
    """The catalogue and how it is split."""

    catalogue: str
    """Catalogue folder, or ``nano:catalogue`` for the embedded one."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of products (groups of variants and near-duplicates) kept for evaluation."""
    salt: str = ""
    """Changes which items are held out."""
    max_train_items: Annotated[int, Field(gt=0)] | None = None
    """Train on at most this many items, chosen by stable hash."""


class ParitySection(Section):
    """The check that engine and policy agree, before training and after the first steps."""

    enabled: bool = True
    rows: Annotated[int, Field(gt=0)] = 4
    """Prompts compared; the one with the largest image is always among them."""
    mean_tolerance: Annotated[float, Field(gt=0)] | None = None
    """Largest accepted mean difference of log-probabilities per token; null takes the default of
    the engine's dtype."""
    max_masked_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of tokens masked by importance-sampling correction above which an alarm is printed."""


class EngineSection(PassThroughSection):
    """vLLM ``EngineArgs`` fields under their own names.

    Those below are the ones that recipes set.
    """

    max_model_len: Annotated[int, Field(gt=0)] | None = None
    """Tokens of prompt, image and completion together; null takes the model's own limit."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a GPU's memory that weights and KV cache may take."""
    tensor_parallel_size: Annotated[int, Field(gt=0)] | None = None
    """GPUs that share one engine."""
    max_num_batched_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of one forward pass; one image has to fit."""
    enforce_eager: bool | None = None
    """Run without CUDA graphs."""


class RolloutSection(Section):
    """The engine that completions come from."""

    backend: Literal["transformers", "vllm"] = "transformers"
    mode: Literal["colocate", "server"] = "colocate"
    """vLLM only: an engine in every training process, or ``vllm serve`` processes reached over
    HTTP."""
    servers: list[str] = []
    """Server mode: base URLs (``http://host:8000``). Empty starts one server on this machine."""
    server_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds to wait for a server to answer, at start and when it has gone away in the middle."""
    ahead: Literal[0, 1] = 0
    """Server mode: 1 samples each step's completions while the step before is learned from, with
    the policy of before that update; importance-sampling correction weighs them."""
    engine: EngineSection = EngineSection()
    structured: bool = False
    """vLLM in ``evaluate``, ``complete`` and ``serve --complete``: decode answers by the JSON
    schema of their task."""
    sleep: bool = False
    """Colocate mode on GPUs: free the engine's memory between rollouts (sleep level 1)."""
    parity: ParitySection = ParitySection()

    @field_validator("structured")
    @classmethod
    def _needs_vllm(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("backend") != "vllm":
            raise ValueError("only vLLM decodes by a schema; set rollout.backend=vllm, or structured=false")
        return value


class EncoderOptions(PassThroughSection):
    """Arguments of one encoder; what is left out is the encoder's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    device: str | None = None
    """Null takes the GPU of the process if there is one."""


class _Encoder(EncoderOptions):
    """A model that turns texts or images into vectors."""

    always = ("model",)

    model: str
    """Hub name, local folder, or an embedded model (``nano:minilm``, ``nano:clip``)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model."""


class BertScoreSection(_Encoder):
    """The BERTScore encoder; only ``float32`` equals the bert-score package to 1e-4."""

    model: str = "roberta-large"
    num_layers: Annotated[int, Field(gt=0)] | None = None
    """Hidden layer whose output is compared; null takes bert-score's table."""


class ClipSection(_Encoder):
    """The CLIP model behind image-image and text-image similarity."""

    model: str = "openai/clip-vit-base-patch32"


class SentenceSection(_Encoder):
    """The sentence encoder behind embedding cosines."""

    model: str = "sentence-transformers/all-MiniLM-L6-v2"


class Dinov2Section(_Encoder):
    """The DINOv2 model behind image-image similarity."""

    model: str = "facebook/dinov2-base"


class WeightsFile(EncoderOptions):
    """A network whose weights are one file."""

    weights: str | None = None
    """A local file, or a folder that holds it; null takes torch's cache or downloads it."""


class EncodersSection(Section):
    """Models that evaluation metrics need; null leaves the metric unscored."""

    bertscore: BertScoreSection | None = BertScoreSection()
    clip: ClipSection | None = ClipSection()
    sentence: SentenceSection | None = SentenceSection()
    dinov2: Dinov2Section | None = Dinov2Section()
    lpips: WeightsFile | None = WeightsFile()
    """AlexNet behind LPIPS."""
    inception: WeightsFile | None = WeightsFile()
    """The Inception network behind KID and FID."""


class BestSection(Section):
    """The choice of the best checkpoint, on items that the comparison then leaves out."""

    metric: str
    """``TASK.METRIC``, for instance ``image_to_text.bertscore_f1``."""
    items: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the evaluated items that decide; choosing and reporting on the same items would
    flatter the choice."""


class EvaluationSection(Section):
    """The evaluation suite: what the training hook and ``grpo-mmpc evaluate`` run."""

    suite: Literal["cqbench"] = "cqbench"
    mode: Literal["corrected", "paper"] = "corrected"
    """``paper`` scores as the official benchmark does, its flaws included."""
    tasks: Annotated[list[str], Field(min_length=1)] | None = None
    """Null means the tasks that are trained."""
    metrics: list[str] | None = None
    """Names of metrics; null means all of the mode."""
    items_per_category: Annotated[int, Field(gt=0)] = 1000
    """Held-out products per task and category, chosen by stable hash."""
    max_items: Annotated[int, Field(gt=0)] | None = None
    """Held-out products per task over all categories, balanced; null sets no further limit."""
    all_variants: bool = False
    """Evaluate every variant and near-duplicate of these products instead of one of each."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    """Prompts generated together."""
    max_tokens: dict[str, Annotated[int, Field(gt=0)]] = {}
    """New tokens per task; the task's own limit where absent."""
    renderer: str | None = None
    """``nano``, ``diffusers``, ``images_api`` or ``module:factory``; null leaves metrics on
    rendered images unscored."""
    renderer_kwargs: dict[str, Any] = {}
    """Arguments of the renderer (for ``diffusers``: model, init_kwargs, call_kwargs, batch_size,
    ...)."""
    controls: list[ControlName] = list(get_args(ControlName))
    """Baselines and ablated inputs evaluated next to the policy; those of other tasks are left
    out."""
    best: BestSection | None = None
    """Compare and report the best checkpoint instead of the last one."""
    encoders: EncodersSection = EncodersSection()
    before: bool = True
    """Evaluate the base model before the first step."""
    checkpoints: bool = True
    """Evaluate after every saved checkpoint."""
    where: Literal["inline", "servers"] = "inline"
    """Where checkpoints are evaluated: training waits for each (``inline``), or goes on meanwhile,
    and another process of its main machine asks ``rollout.servers`` and scores."""
    on_error: Literal["warn", "raise"] = "warn"
    """A failing evaluation is always loud; ``raise`` also stops training."""
    resamples: Annotated[int, Field(ge=100)] = 10_000
    """Bootstrap resamples of the comparison."""
    recbench: dict[str, Any] | None = None
    """Also run the recommendation benchmark, on the base model and at the end: fields of
    ``RecBenchSection``; ``{}`` is its light setting."""


class GateSection(Section):
    """The gate of ``grpo-mmpc complete``: which new titles are accepted, and which wait."""

    confidence: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A title waits for review if any of its fields is below: by the share of ``--samples`` that
    agree, or by the calibrated probability that it is right."""
    constraints: dict[str, Any] = {}
    """What every title must keep, the arguments of the reward ``constraints``; ``{}`` demands
    nothing."""

    @field_validator("constraints")
    @classmethod
    def _are_possible(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            Constraints(**value)
        except TypeError as error:
            raise ValueError(str(error).replace("Constraints.__init__() ", "")) from error
        return value


class ReportSection(Section):
    """The HTML report written at the end of a run."""

    enabled: bool = True


class RunConfig(Section):
    """Everything that defines a run. ``config.yaml`` of the run folder holds it resolved."""

    run_dir: str
    """Folder that receives everything the run writes."""
    seed: Annotated[int, Field(ge=0)] = 0
    method: Literal["grpo", "sft"] = "grpo"
    """What training is: GRPO on rewards, or supervised fine-tuning on the catalogue's own answers
    (``grpo-mmpc sft``), to which rewards and rollouts mean nothing."""
    model: ModelSection
    adapter: AdapterSection | None
    """Null trains every weight of the model."""
    data: DataSection
    own_tasks: dict[str, Task] = {}
    """Tasks of the recipe's own, by name."""
    tasks: Annotated[list[str], Field(min_length=1)] = ["image_to_text"]
    """Names of shipped tasks and of ``own_tasks``. A file ``my_task.yaml``, by its path from the
    recipe, becomes one of those."""
    rewards: RewardsSection
    rollout: RolloutSection = RolloutSection()
    trainer: dict[str, Any] = {}
    """TRL ``GRPOConfig`` fields (``SFTConfig`` with ``method: sft``), verbatim. ``output_dir``,
    ``seed`` and the reward weights are set from this file."""
    evaluation: EvaluationSection = EvaluationSection()
    gate: GateSection = GateSection()
    report: ReportSection = ReportSection()

    @field_validator("own_tasks", mode="before")
    @classmethod
    def _are_named(cls, value: Any) -> Any:
        """Give each task its key as name."""
        if not isinstance(value, dict):
            return value
        for name in value:
            if name in SHIPPED or not isinstance(name, str) or not NAME.fullmatch(name):
                problem = "is the name of a shipped task" if name in SHIPPED else "is no name of a task"
                raise ValueError(f"{name!r} {problem}; take another one of letters a to z, digits and underscores")
        return {
            name: {**content, "name": name} if isinstance(content, dict) else content for name, content in value.items()
        }

    @field_validator("tasks")
    @classmethod
    def _are_known(cls, value: list[str], info: ValidationInfo) -> list[str]:
        return _known_names(value, SHIPPED | info.data.get("own_tasks", {}))

    @field_validator("evaluation")
    @classmethod
    def _asks_for_known_tasks(cls, value: EvaluationSection, info: ValidationInfo) -> EvaluationSection:
        known = SHIPPED | info.data.get("own_tasks", {})
        names = value.tasks or info.data.get("tasks", [])
        _known_names([*value.max_tokens], known)
        foreign = [name for name in _known_names(names, known) if name not in TASKS]
        if value.mode == "paper" and foreign:
            raise ValueError(f"mode: the paper scores {' and '.join(TASKS)}, not {foreign[0]}; use corrected")
        return value

    @property
    def known_tasks(self) -> dict[str, Task]:
        """Every task by name: those that are shipped and the recipe's own."""
        return SHIPPED | self.own_tasks

    @property
    def measured_tasks(self) -> list[Task]:
        """The tasks that are trained or evaluated."""
        return [self.known_tasks[name] for name in dict.fromkeys([*self.tasks, *self.evaluation_tasks])]

    @property
    def evaluation_tasks(self) -> list[str]:
        """Tasks that the hook evaluates."""
        return self.evaluation.tasks or self.tasks

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        """What every prompt is rendered with, in training and wherever else the policy is asked."""
        return self.trainer.get("chat_template_kwargs") or {}

    @property
    def max_completion_length(self) -> int:
        """The most new tokens of a completion in training by GRPO; TRL's default without one."""
        return int(self.trainer.get("max_completion_length") or 512)

    def asked(self, checkpoint: Path | None) -> Path | None:
        """Return the adapter of a policy that is asked: a checkpoint, or that before training."""
        start = self.model.init_from
        return Path(start) if checkpoint is None and start is not None else checkpoint

    def to_yaml(self) -> str:
        """The resolved configuration as YAML; loading it gives an equal object, but for tokens."""
        return yaml_without_secrets(self.model_dump(mode="json"))

    def settings(self) -> dict[str, Any]:
        """Return what makes it this run: not the folder, nor which servers are asked and how long.

        A folder may be moved, and a requeued job gets other nodes; what servers serve is compared
        when they are reached.
        """
        content: dict[str, Any] = yaml.safe_load(self.to_yaml())
        start = self.asked(None)
        content["model"]["init_from"] = start and str(start.resolve())
        del content["run_dir"], content["rollout"]["servers"], content["rollout"]["server_timeout"]
        return content


def _known_names(names: Sequence[str], known: Mapping[str, Task]) -> list[str]:
    """Return names of tasks, unless one is unknown or appears twice."""
    for position, name in enumerate(names):
        if name not in known:
            raise ValueError(f"no task {name!r}; {nearest(name, known)}; {_OWN_TASK}")
        if name in names[:position]:
            raise ValueError(f"the task {name} appears twice; name it once")
    return list(names)


def known_tasks(raw: Mapping[str, Any]) -> dict[str, Task]:
    """Return the tasks of a configuration that is not validated yet; broken ones are left out."""
    own, known = raw.get("own_tasks"), dict(SHIPPED)
    for name, content in (own if isinstance(own, dict) else {}).items():
        with suppress(ValidationError, TypeError):
            known.setdefault(name, Task(**{**content, "name": name}))
    return known
