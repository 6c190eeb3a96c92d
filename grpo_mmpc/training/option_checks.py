"""The checks of ``trainer`` and ``adapter``: as asked, or refused before a model loads."""

import copy
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config.problems import Problems, parameters_of, unknown_options
from grpo_mmpc.models.option_checks import lacking_package
from grpo_mmpc.training.method_checks import (
    LOSS_TYPES,
    LOSS_TYPES_WITH_TOKEN_NORMALISER,
    SFT_LOSS_TYPES,
    SFT_SET_ELSEWHERE,
    option_names,
    trainer_arguments,
)
from grpo_mmpc.training.sharding_checks import check_sharding
from grpo_mmpc.utils.sections import section

if TYPE_CHECKING:
    from trl import GRPOConfig


_ONE_SAMPLE = "a rollout is one sequence that is sampled, and returned as tokens"
_GENERATION = {
    **{name: f"set trainer.{name}" for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")},
    **dict.fromkeys(("max_new_tokens", "max_length"), "set trainer.max_completion_length"),
    **dict.fromkeys(("do_sample", "num_beams", "num_return_sequences", "return_dict_in_generate"), _ONE_SAMPLE),
    **dict.fromkeys(("stop_strings", "prompt_lookup_num_tokens"), _ONE_SAMPLE),
    **dict.fromkeys(("output_scores", "output_logits", "output_attentions", "output_hidden_states"), _ONE_SAMPLE),
}
"""Keys of ``generation_kwargs`` by which TRL would sample otherwise than it computes, or fail."""
CHOICES = {
    "loss_type": LOSS_TYPES,
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "log_level": ("debug", "info", "detail", "warning", "error", "critical", "passive"),
}
"""Values that TRL compares only when it uses them."""
_CHECKPOINTING = ("use_reentrant", "determinism_check", "preserve_rng_state", "debug", "early_stop")
"""Options of torch's ``checkpoint`` that it takes by name, less ``context_fn``, a function."""
_EVALUATION = "TRL's own evaluation is not used, evaluations follow every checkpoint; set the section evaluation"
_PUBLISHES = "a run publishes nothing; save it, then push what you want to share"
_LORA_ALONE = "an adapter is LoRA alone, which engines and checkpoints take"
_TEXT_ONLY = "TRL refuses it for models that see images; set rollout.backend: vllm"
_NO_LABELS = "GRPO learns from rewards, not from labels"
_BEST = "set evaluation.best"
_REFERENCE = "the reference of a LoRA run is the policy without its adapter, which nothing has to sync"
SET_ELSEWHERE = {
    "output_dir": "checkpoints are written to run_dir/checkpoints; set run_dir",
    "seed": "set the top-level key seed",
    "data_seed": "set the top-level key seed",
    "reward_weights": "weights belong to the specs in rewards.mix, where names bind them",
    "multi_objective_aggregation": "set rewards.aggregation",
    "resume_from_checkpoint": "the command goes on from the newest checkpoint by itself",
    "use_vllm": "set rollout.backend: vllm, whose engine is checked against the policy",
    "model_init_kwargs": "set model.init_kwargs",
    "trust_remote_code": "set model.init_kwargs.trust_remote_code",
    "train_sampling_strategy": "prompts come in an order of their own, by seed and epoch",
    "max_tool_calling_iterations": "completions call no tools",
    "length_column_name": "prompts come in an order of their own, by seed and epoch",
    "do_train": "the command train trains; remove it",
    "do_predict": "grpo-mmpc evaluate and complete write answers; remove it",
    "enable_jit_checkpoint": "a signal saves and stops anyway; remove it",
    "load_best_model_at_end": _BEST,
    "metric_for_best_model": _BEST,
    "greater_is_better": _BEST,
    "push_to_hub": _PUBLISHES,
    "log_completions_hub_repo": _PUBLISHES,
    "sync_ref_model": _REFERENCE,
    "ref_model_sync_steps": _REFERENCE,
    "ref_model_mixup_alpha": _REFERENCE,
    "parallelism_config": "set the launch file: launch/accelerate",
    "include_num_input_tokens_seen": "tokens are logged as num_tokens already; Transformers cannot count these",
    **dict.fromkeys(("use_transformers_continuous_batching", "use_transformers_paged"), _TEXT_ONLY),
    "transformers_continuous_batching_config": _TEXT_ONLY,
    "label_smoothing_factor": _NO_LABELS,
    "label_names": _NO_LABELS,
    "include_for_metrics": _EVALUATION,
    "prediction_loss_only": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
}
"""TRL fields that would have no effect or another one under ``trainer``, and what to do instead."""
AT_LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation"), 1),
    **dict.fromkeys(("num_iterations", "max_completion_length", "pad_to_multiple_of"), 1),
    **dict.fromkeys(("learning_rate", "beta", "epsilon", "epsilon_high", "delta", "top_k", "min_p", "warmup_steps"), 0),
    **dict.fromkeys(("weight_decay", "neftune_noise_alpha", "off_policy_mask_threshold", "dataloader_num_workers"), 0),
    "max_steps": -1,
}
"""Least values of numbers with which TRL would start, and fail later or train something else."""
_NO_KIND = frozenset({"class", "None", "NoneType", "typing", "Optional", "Union"})
"""Words in the type of a field that name no kind of value."""
UP_TO = {
    **dict.fromkeys(("temperature", "repetition_penalty", "save_steps", "logging_steps"), math.inf),
    **dict.fromkeys(("sapo_temperature_neg", "sapo_temperature_pos", "ddp_timeout"), math.inf),
    **dict.fromkeys(("top_p", "top_entropy_quantile"), 1),
}
"""Greatest values of numbers that must be above 0."""
REFUSED = {
    ("remove_unused_columns", True): "rewards need the columns of the data set; remove it",
    ("save_only_model", True): "a run could not go on from its checkpoints; remove it",
    ("ignore_data_skip", True): "a run that goes on would see other prompts; remove it",
    ("logging_strategy", "no"): "the curves of a run are what is logged; set logging_steps",
    ("logging_strategy", "epoch"): "the curves of a run are what is logged; set logging_steps",
    (
        "save_strategy",
        "best",
    ): "checkpoints are saved by steps; set save_steps, and evaluation.best to choose",
}
"""Values that would leave a run without something it needs."""


def check_trainer(raw: Mapping[str, Any]) -> Problems:
    """Yield problems of the ``trainer`` and ``adapter`` sections.

    Names are compared with the installed libraries; TRL's own cross-field rules (batch size
    divisible by ``num_generations`` and the like) run by building the object.
    """
    options, target = raw.get("trainer") or {}, trainer_arguments(raw)
    if isinstance(options, Mapping):
        problems = [
            *unknown_options(
                "trainer", options, [*option_names(target), "chat_template_kwargs"], owner=target.__name__
            ),
            *_wrong_types("trainer", options, target),
            *_wrong_values(options, raw),
            *check_sharding(options),
        ]
        problems = problems or [*_unknown_kwargs(options)]
        yield from problems or _refused_by_trl(options, raw)
    yield from _adapter_problems(section(raw, "adapter"))


def zero_variance_problems(raw: Mapping[str, Any], built: "GRPOConfig") -> Problems:
    """Yield what keeps this trainer from following ``rewards.dead_groups``."""
    policy = section(raw, "rewards").get("dead_groups")
    if policy == "drop" and built.loss_type not in LOSS_TYPES_WITH_TOKEN_NORMALISER:
        yield (
            "rewards.dead_groups",
            f"drop takes tokens out of the normaliser, which loss_type {built.loss_type} does not have; use one of "
            f"{', '.join(LOSS_TYPES_WITH_TOKEN_NORMALISER)}, or keep",
        )
    completions = built.per_device_train_batch_size * built.steps_per_generation
    if policy == "resample" and completions % built.num_generations:
        yield (
            "rewards.dead_groups",
            f"resample needs whole groups on every process: per_device_train_batch_size * steps_per_generation "
            f"({completions}) must be a multiple of num_generations ({built.num_generations})",
        )


def _wrong_values(options: Mapping[str, Any], raw: Mapping[str, Any]) -> Problems:
    is_sft = raw.get("method") == "sft"
    elsewhere = SET_ELSEWHERE | (SFT_SET_ELSEWHERE if is_sft else {})
    choices = CHOICES | ({"loss_type": SFT_LOSS_TYPES} if is_sft else {})
    for name, value in options.items():
        if value in (None, False, "no", []):  # as it is anyway
            pass
        elif name in elsewhere:
            yield f"trainer.{name}", f"is not set here: {elsewhere[name]}"
        elif name.startswith("vllm_") and not name.startswith("vllm_importance_sampling"):
            yield f"trainer.{name}", "is not set here: set rollout.mode and rollout.engine"
        elif "eval" in name.split("_"):
            yield f"trainer.{name}", f"is not set here: {_EVALUATION}"
        elif name.startswith(("hub_", "trackio_")):  # a Space of trackio's is public unless it is told otherwise
            yield f"trainer.{name}", f"is not set here: {_PUBLISHES}"
        elif name in choices and value is not True and value not in choices[name]:
            yield f"trainer.{name}", f"expected one of {', '.join(choices[name])}, found {value!r}"
        elif name.startswith("vllm_") and section(raw, "rollout").get("backend") != "vllm":
            yield f"trainer.{name}", "corrects what vLLM samples; set rollout.backend=vllm, or remove it"
        elif (loss := name.partition("_")[0]) in LOSS_TYPES and loss != options.get("loss_type", "dapo"):
            yield f"trainer.{name}", f"belongs to trainer.loss_type={loss}; set that, or remove it"
    for (name, refused), reason in REFUSED.items():
        if options.get(name) == refused:
            yield f"trainer.{name}", f"{refused!r} is refused: {reason}"
    for name, least in AT_LEAST.items():
        number = options.get(name)
        if isinstance(number, int | float) and not (math.isfinite(number) and number >= least):
            yield f"trainer.{name}", f"expected a number from {least} on, found {number!r}"
    for name, most in UP_TO.items():
        number = options.get(name)
        if isinstance(number, int | float) and not (math.isfinite(number) and 0 < number <= most):
            up_to = "" if math.isinf(most) else f" up to {most}"
            yield f"trainer.{name}", f"expected a number above 0{up_to}, found {number!r}"
    epochs = options.get("num_train_epochs", 3)
    if isinstance(epochs, float) and not math.isfinite(epochs):
        yield "trainer.num_train_epochs", f"expected a number of epochs, found {epochs!r}"
    elif isinstance(epochs, int | float) and epochs <= 0 and (options.get("max_steps") or -1) <= 0:
        yield "trainer.num_train_epochs", f"{epochs!r} trains nothing; set trainer.max_steps or more epochs"
    if options.get("max_steps") == 0:
        yield "trainer.max_steps", "0 means as many as trainer.num_train_epochs asks for; remove it, or give a number"
    if options.get("use_cpu") and options.get("fp16"):
        yield "trainer.fp16", "has no effect on a CPU; remove it"
    ceiling = options.get("epsilon_high") or options.get("epsilon", 0.2)
    if options.get("loss_type") == "cispo" and isinstance(ceiling, int | float) and ceiling < 1:
        yield (
            "trainer.epsilon_high",
            f"loss_type cispo cuts importance weights at this value itself, and {ceiling:g} would cut those of all "
            "tokens to it; set trainer.epsilon_high=5.0",
        )
    if options.get("use_cpu") and section(raw, "rollout").get("sleep"):
        yield "rollout.sleep", "has no effect on a CPU; remove it"
    if not isinstance(options.get("chat_template_kwargs") or {}, Mapping):
        yield "trainer.chat_template_kwargs", "expected a mapping"


def _refused_by_trl(options: Mapping[str, Any], raw: Mapping[str, Any]) -> Problems:
    """Build TRL's object and what its options need, without a model."""
    # heavy: imported on use
    import torch
    from accelerate.utils import DynamoBackend
    from transformers import GenerationConfig
    from transformers.integrations import get_reporting_integration_callbacks

    # A recipe for GPUs can be checked where there is none: only starting it needs one.
    elsewhere = {} if torch.accelerator.is_available() else {"use_cpu": True}
    try:
        values = {name: value for name, value in options.items() if name != "chat_template_kwargs"}
        built = trainer_arguments(raw)(output_dir="unused", **{"report_to": "none", **elsewhere, **values})
    except Exception as error:  # whatever TRL raises for a value is a problem of the value
        yield "trainer", f"TRL refuses these values: {' '.join(str(error).split())}"
        return
    if 0 < built.max_steps < built.logging_steps and not built.logging_first_step:
        yield (
            "trainer.logging_steps",
            f"{built.logging_steps:g} is more than the {built.max_steps} of trainer.max_steps: no curve would be "
            f"written; set trainer.logging_steps={max(1, built.max_steps // 10)}",
        )
    if is_grpo := raw.get("method") != "sft":
        yield from zero_variance_problems(raw, built)
    for name, needs in (
        ("optim", lambda: _try_optimizer(built)),
        ("lr_scheduler_type", lambda: _try_scheduler(built)),
        ("dataloader_num_workers", lambda: _try_loader(built)),
        ("generation_kwargs", lambda: GenerationConfig(**(options.get("generation_kwargs") or {})).validate()),
        ("torch_compile_backend", lambda: DynamoBackend((built.torch_compile_backend or "no").upper())),
        ("cache_implementation", lambda: is_grpo and GenerationConfig(cache_implementation=built.cache_implementation)),
        ("report_to", lambda: [callback() for callback in get_reporting_integration_callbacks(built.report_to)]),
    ):
        try:
            needs()
        except Exception as error:  # a package that is not installed, a name that nobody knows
            shown = f"{options[name]!r} cannot be used" if name in options else "cannot be used"
            yield f"trainer.{name}", f"{shown}: {' '.join(str(error).split())}"
    if built.use_liger_kernel and (lacking := lacking_package("liger_kernel", "pip install liger-kernel")):
        yield "trainer.use_liger_kernel", lacking


def _try_optimizer(built: "GRPOConfig") -> None:
    """Build the optimiser of one parameter, which judges betas and the like."""
    # heavy: imported on use
    import torch
    from transformers import Trainer

    kind, options = Trainer.get_optimizer_cls_and_kwargs(built)
    for name in ("optim_args", "optim_target_modules"):
        plain = copy.copy(built)
        setattr(plain, name, None)
        if getattr(built, name) and Trainer.get_optimizer_cls_and_kwargs(plain) == (kind, options):
            raise ValueError(f"it does not look at trainer.{name}; remove that")
    kind([{"params": [torch.nn.Parameter(torch.zeros(1))], "weight_decay": built.weight_decay}], **options)


def _try_scheduler(built: "GRPOConfig") -> None:
    """Build the schedule of the learning rate, which may need arguments of its own."""
    # heavy: imported on use
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    steps = {"num_warmup_steps": 1, "num_training_steps": 10}
    kwargs = built.lr_scheduler_kwargs
    get_scheduler(built.lr_scheduler_type, optimizer=optimizer, **steps, scheduler_specific_kwargs=kwargs)


def _try_loader(built: "GRPOConfig") -> None:
    """Build a loader with these workers, which judges what may be asked without any."""
    # heavy: imported on use
    from torch.utils.data import DataLoader

    DataLoader(
        [0],  # type: ignore[arg-type]
        num_workers=built.dataloader_num_workers,
        prefetch_factor=built.dataloader_prefetch_factor,
        persistent_workers=built.dataloader_persistent_workers,
    )


def _adapter_problems(adapter: Mapping[str, Any]) -> Problems:
    # heavy: imported on use
    from peft import LoraConfig

    problems = [*unknown_options("adapter", adapter, option_names(LoraConfig), owner="LoraConfig")]
    for name, allowed, reason in (
        ("inference_mode", (False, None), "nothing would be trained"),
        ("task_type", ("CAUSAL_LM", None), "the policy writes text"),
        ("peft_type", ("LORA", None), "adapters are LoRA"),
        ("modules_to_save", (None, []), _LORA_ALONE),
        ("trainable_token_indices", (None, []), _LORA_ALONE),
        ("alora_invocation_tokens", (None, []), "it would act after these tokens only, and learn nothing here"),
        ("use_bdlora", (None,), _LORA_ALONE),
        ("use_qalora", (False, None), "it acts on GPTQ models alone"),
        ("ensure_weight_tying", (False, None), "it acts on modules_to_save, which an adapter has none of"),
        *((name, (None,), _LORA_ALONE) for name in adapter if str(name).endswith("_config")),
        ("base_model_name_or_path", (None,), "it is model.name_or_path"),
        ("revision", (None,), "it is model.init_kwargs.revision"),
        ("bias", ("none", None), "the base model's own biases would change, and stay so without the adapter"),
        (
            "init_lora_weights",
            (True, "gaussian", None),
            "the adapter would change the policy before the first step, or the base model's own weights",
        ),
    ):
        if adapter.get(name) not in allowed:
            problems.append((f"adapter.{name}", f"{adapter[name]!r} is refused: {reason}; remove it"))
    for name in ("target_modules", "exclude_modules"):
        try:
            re.compile(pattern if isinstance(pattern := adapter.get(name), str) else "")
        except re.error as error:
            problems.append((f"adapter.{name}", f"{pattern!r} is no regular expression: {error}; correct it"))
    if not problems:
        try:
            LoraConfig(**adapter)
        except Exception as error:  # whatever PEFT raises for a value is a problem of the value
            problems.append(("adapter", f"PEFT refuses these values: {' '.join(str(error).split())}"))
    yield from problems


def _wrong_types(section: str, options: Mapping[str, Any], target: Any) -> Problems:
    """Yield values that are no switch or no number where one is due: TRL notices only on use."""
    for field in dataclasses.fields(target):
        value, kinds = options.get(field.name), {*re.findall(r"\w+", str(field.type))} - _NO_KIND
        if value is None:
            continue
        if "dict" in kinds and not isinstance(value, Mapping | str):  # a number would be opened as a file
            yield f"{section}.{field.name}", f"expected a mapping, found {value!r}"
        is_switch = isinstance(value, bool)
        if kinds == {"bool"} and not is_switch:
            yield f"{section}.{field.name}", f"expected true or false, found {value!r}"
        elif kinds == {"int"} and (is_switch or not isinstance(value, int)):
            yield f"{section}.{field.name}", f"expected a whole number, found {value!r}"
        elif kinds and kinds <= {"int", "float"} and (is_switch or not isinstance(value, int | float)):
            yield f"{section}.{field.name}", f"expected a number, found {value!r}"


def _unknown_kwargs(options: Mapping[str, Any]) -> Problems:
    """Yield keys of the dictionaries under ``trainer`` that nobody reads, or only a later step."""
    # heavy: imported on use
    from transformers import GenerationConfig
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    kind = options.get("lr_scheduler_type", "linear")
    scheduler = next((function for name, function in TYPE_TO_SCHEDULER_FUNCTION.items() if name == kind), None)
    own = ("function", "optimizer", "num_warmup_steps", "num_training_steps")
    for name, known, owner in (
        ("generation_kwargs", frozenset(GenerationConfig().to_dict()), "GenerationConfig"),
        ("gradient_checkpointing_kwargs", _CHECKPOINTING, "torch's checkpoint"),
        ("lr_scheduler_kwargs", scheduler and parameters_of(scheduler, without=own), f"the scheduler {kind}"),
    ):
        given = options.get(name)
        if isinstance(given, Mapping):
            yield from unknown_options(f"trainer.{name}", given, known, owner=owner)
    for name in options.get("generation_kwargs") or ():
        if instead := _GENERATION.get(name):
            yield f"trainer.generation_kwargs.{name}", f"is not set here: {instead}"
