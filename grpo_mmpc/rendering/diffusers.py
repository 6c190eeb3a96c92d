"""Render with any text-to-image pipeline of diffusers, as MMPCBench does (arXiv 2601.19750)."""

import importlib.util
import inspect
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config import nearest
from grpo_mmpc.encoders.loading import pick_device
from grpo_mmpc.errors import EvaluationError, first_line
from grpo_mmpc.utils.content import model_folder, refuse_unreachable
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.single_out import Failure, is_out_of_memory

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

PAPER_MODEL = "stabilityai/stable-diffusion-3.5-large-turbo"
PAPER_CALL_KWARGS: Mapping[str, Any] = {"num_inference_steps": 4, "guidance_scale": 0.0, "max_sequence_length": 512}
_RESERVED = ("prompt", "generator", "num_images_per_prompt", "output_type", "return_dict")
NOT_INSTALLED = "renderer diffusers: the package diffusers cannot be imported; run: pip install 'grpo-mmpc[diffusers]'"
_NO_LIMIT = 10**9  # tokenizers without a limit carry a huge number instead


class DiffusersRenderer:
    """A diffusers pipeline with one seed per image.

    The paper's protocol has no seed; here the noise of an image is sampled on the CPU from a
    generator of its own, so that an image depends neither on its batch nor on the kind of GPU, up
    to floating-point differences of the model itself. An image that the pipeline's safety checker
    blacked out counts as failed.

    Args:
        model: Hub name or local folder of a pipeline.
        init_kwargs: Options of ``from_pretrained``, verbatim; ``dtype`` as text, such as
            ``bfloat16``. Unless given it is float16, as in the paper, and float32 on a CPU.
        call_kwargs: Options of the pipeline's ``__call__``, verbatim, laid over the paper's 4
            steps, guidance 0 and ``max_sequence_length`` 512 (each only where the pipeline takes
            it). null leaves one at the pipeline's own default. A negative prompt is one text for
            all images.
        batch_size: Images at a time; halved for good when a batch does not fit into memory.
        device: None takes the GPU if there is one. Leave it out with a ``device_map``.

    Raises:
        EvaluationError: diffusers is not installed, the pipeline cannot be loaded, or an option
            does not fit.
    """

    def __init__(
        self,
        *,
        model: str = PAPER_MODEL,
        init_kwargs: Mapping[str, Any] | None = None,
        call_kwargs: Mapping[str, Any] | None = None,
        batch_size: int = 4,
        device: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise EvaluationError(f"renderer diffusers: batch_size must be at least 1, found {batch_size}")
        self.model = model
        self.batch_size = batch_size
        self.pipeline = _load_pipeline(model, dict(init_kwargs or {}), device)
        self.call_kwargs = _call_options(type(self.pipeline), model, dict(call_kwargs or {}))
        """Arguments of every call besides prompts and generators."""
        limits = _token_limits(self.pipeline, self.call_kwargs)
        self.token_limit: int | None = min((limit for _, limit in limits), default=None)
        """Tokens that every text encoder reads: 77 with a CLIP among them. Others may read on (SD
        3.5's T5 does)."""
        self._tokenizers = [tokenizer for tokenizer, limit in limits if limit == self.token_limit]

    def prompt_tokens(self, prompts: list[str]) -> list[int]:
        """Count the tokens of N prompts, uncut, by the tokenizer with the smallest limit.

        The largest count if several share it.
        """
        counts = [
            [len(ids) for ids in tokenizer(list(prompts), verbose=False)["input_ids"]] if prompts else []
            for tokenizer in self._tokenizers
        ]
        return [max(of_prompt) for of_prompt in zip(*counts, strict=True)] if counts else [0] * len(prompts)

    def render(self, prompts: list[str], *, seeds: list[int]) -> "list[Image | Failure]":
        """Render one batch; see ``Renderer``."""
        import torch  # heavy: imported on use

        options = {
            name: [value] * len(prompts) if name.startswith("negative_prompt") and isinstance(value, str) else value
            for name, value in self.call_kwargs.items()
        }
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        try:
            with _errors_only():
                output = self.pipeline(prompt=prompts, generator=generators, **options)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) and len(prompts) > 1:
                self.batch_size = len(prompts) // 2
                logger.warning(
                    "%s: %d images do not fit into memory; going on with %d at a time",
                    self.model,
                    len(prompts),
                    self.batch_size,
                )
            raise
        images = list(output.images)
        if len(images) != len(prompts):
            raise EvaluationError(f"{self.model}: the pipeline gave {len(images)} images for {len(prompts)} prompts")
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(images)
        return [
            Failure(reason="blacked out by the safety checker") if unsafe else image.convert("RGB")
            for image, unsafe in zip(images, flagged, strict=True)
        ]


@contextmanager
def _errors_only() -> Iterator[None]:
    """Silence a pipeline's warnings about prompts that it cuts, which ``prompt_tokens`` counts."""
    from diffusers.utils import logging as diffusers_logging  # heavy: imported on use

    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before)


@contextmanager
def _no_question() -> Iterator[None]:
    """Refuse code in the folder of a component, about which Transformers would ask on the terminal.

    diffusers hands ``trust_remote_code`` to none of them.
    """
    from transformers import dynamic_module_utils  # heavy: imported on use

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # of the wait for an answer: 0 asks nothing
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def _load_pipeline(model: str, init_kwargs: dict[str, Any], device: str | None) -> Any:
    import torch  # heavy: imported on use

    ensure_importable()
    try:
        from diffusers import AutoPipelineForText2Image, DiffusionPipeline  # heavy: imported on use
    except ImportError as error:
        raise EvaluationError(f"{NOT_INSTALLED} ({error})") from error

    if "device_map" in init_kwargs:
        if device is not None:
            raise EvaluationError(
                f"renderer diffusers: device {device!r} and init_kwargs.device_map exclude each other"
            )
    else:
        device = pick_device(device)
    names = [name for name in ("dtype", "torch_dtype") if name in init_kwargs]  # the second is diffusers' older name
    for name in names:
        init_kwargs[name] = _torch_dtype(init_kwargs[name])
    if not names:
        init_kwargs["dtype"] = torch.float32 if device == "cpu" else torch.float16
    try:
        refuse_unreachable(model)
        with _no_question():
            try:
                pipeline = AutoPipelineForText2Image.from_pretrained(model, **init_kwargs)
            except ValueError:  # no place in the table of text-to-image tasks: a new pipeline, or one of its own
                pipeline = DiffusionPipeline.from_pretrained(model, **init_kwargs)
    # ImportError: a tokenizer's package is missing. AttributeError: a class that this diffusers
    # does not have.
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        place = "that folder" if Path(model).is_dir() else "the hub and its local cache"
        raise EvaluationError(
            f"renderer diffusers: cannot load {model!r} from {place}: {first_line(error)}. Give a folder "
            "that holds a pipeline (model_index.json), or download it first: HF_HUB_OFFLINE=1 forbids downloads, and a "
            "gated model (Stable Diffusion 3.5 is one) needs its licence accepted on the hub and HF_TOKEN set"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    try:
        return pipeline if device is None else pipeline.to(device)
    except torch.OutOfMemoryError as error:
        raise EvaluationError(
            f"renderer diffusers: {model!r} does not fit into the memory of {device}: {first_line(error)}. Load it "
            "with device_map: balanced, or without its largest text encoder (init_kwargs: {text_encoder_3: null, "
            "tokenizer_3: null} for Stable Diffusion 3), or free the device"
        ) from error


def check_pipeline_options(
    *,
    model: str = PAPER_MODEL,
    init_kwargs: Mapping[str, Any] | None = None,
    call_kwargs: Mapping[str, Any] | None = None,
    **_: Any,
) -> None:
    """Hold options to the class of a pipeline that is on this machine, without its weights.

    Raises:
        EvaluationError: diffusers is not installed, or an option is misspelt.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise EvaluationError(NOT_INSTALLED)
    folder = model_folder(model) if init_kwargs or call_kwargs else None
    if folder is None or not (folder / "model_index.json").is_file():
        return
    ensure_importable()
    import diffusers  # heavy: imported on use

    name = json.loads((folder / "model_index.json").read_bytes()).get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if kind is None:  # a pipeline with code of its own
        return
    _takes_call_options(kind, model, call_kwargs or {})
    # It takes its options out of **kwargs, and drops what neither it nor the class reads.
    source = inspect.getsource(diffusers.DiffusionPipeline.from_pretrained.__func__)
    source += inspect.getsource(diffusers.AutoPipelineForText2Image.from_pretrained.__func__)
    known = {*re.findall(r'kwargs\.pop\(\s*"(\w+)"', source), *inspect.signature(kind.__init__).parameters} - {"self"}
    for option in init_kwargs or {}:
        if option not in known:
            raise EvaluationError(
                f"renderer diffusers: {kind.__name__} takes no init option {option!r}; {nearest(option, known)}"
            )


def _takes_call_options(kind: type, model: str, given: Mapping[str, Any]) -> set[str]:
    """Return the options of a pipeline's calls, which must hold the given ones."""
    parameters = inspect.signature(kind.__call__).parameters
    absent = [name for name in ("prompt", "generator") if name not in parameters]
    if absent:
        raise EvaluationError(
            f"renderer diffusers: {model!r} is a {kind.__name__}, which takes no {' and no '.join(absent)}"
        )
    if reserved := sorted(set(given) & set(_RESERVED)):
        raise EvaluationError(f"renderer diffusers: call_kwargs must not set {', '.join(reserved)}: the renderer does")
    # Also where there is a **kwargs: pipelines take old names that way, and drop the rest without a
    # word.
    options = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD} - {"self", *_RESERVED}
    for name in given:
        if name not in options:
            raise EvaluationError(
                f"renderer diffusers: {kind.__name__} takes no call option {name!r}; {nearest(name, options)}"
            )
    return options


def _call_options(kind: type, model: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the paper's options under the given ones; the pipeline must take them."""
    options = _takes_call_options(kind, model, given)
    paper = {name: value for name, value in PAPER_CALL_KWARGS.items() if name in options and name not in given}
    if paper and model != PAPER_MODEL:
        logger.warning(
            "renderer diffusers: %s renders with the settings of %s where call_kwargs is silent: %s",
            model,
            PAPER_MODEL,
            ", ".join(f"{name}={value}" for name, value in paper.items()),
        )
    return {name: value for name, value in {**paper, **given}.items() if value is not None}


def _token_limits(pipeline: Any, call_kwargs: Mapping[str, Any]) -> list[tuple[Any, int]]:
    """Return the pipeline's tokenizers with the number of tokens that each may give.

    The least of what the tokenizer declares (77 for CLIP), the text encoder has positions for, and
    the call's ``max_sequence_length`` (which is how pipelines cut prompts for T5 and language
    models). A tokenizer whose text encoder was left out is not read.
    """
    parameter = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    limits = []
    for name, tokenizer in pipeline.components.items():
        encoder = pipeline.components.get(name.replace("tokenizer", "text_encoder"))
        if not name.startswith("tokenizer") or tokenizer is None or encoder is None:
            continue
        candidates = [
            getattr(tokenizer, "model_max_length", None),
            getattr(encoder.config, "max_position_embeddings", None),
            None if parameter is None else call_kwargs.get("max_sequence_length", parameter.default),
        ]
        limit = min((c for c in candidates if isinstance(c, int)), default=_NO_LIMIT)
        if limit < _NO_LIMIT:
            limits.append((tokenizer, limit))
    return limits


def _torch_dtype(value: Any) -> Any:
    """Return a dtype by its name; from_pretrained would quietly take float32 for a text."""
    import torch  # heavy: imported on use

    if isinstance(value, Mapping):  # one dtype per component
        return {component: _torch_dtype(of_component) for component, of_component in value.items()}
    if not isinstance(value, str):
        return value
    dtype = getattr(torch, value.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise EvaluationError(f"renderer diffusers: {value!r} is not a dtype; write float16, bfloat16 or float32")
    return dtype
