"""Take a trained policy out of its run: an adapter or a merged model that needs nothing of us."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config.recorded import load_recorded_policy
from grpo_mmpc.errors import AdapterError, ConfigError, GrpoMmpcError, TrainingError, first_line
from grpo_mmpc.evaluation.comparison import compare_evaluations, update_comparison
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.models.adapter_folder import CONFIG, WEIGHTS, open_adapter
from grpo_mmpc.models.identity import is_whole_model, policy_identity
from grpo_mmpc.models.policy import load_policy, whole_model
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.reports.run.model_card import Exported, model_card
from grpo_mmpc.rollout.prompts import plain_inputs
from grpo_mmpc.training.checkpoint import damage, newest_checkpoint
from grpo_mmpc.utils.console import printer, quiet_when_redirected
from grpo_mmpc.utils.files import build_folder, read_object, write_json, write_text
from grpo_mmpc.utils.model_paths import resolve_model
from grpo_mmpc.utils.secrets import yaml_without_secrets

if TYPE_CHECKING:
    from grpo_mmpc.config import ModelSection, RunConfig
    from grpo_mmpc.evaluation.records import Comparison

RECORD = "export.json"
"""Which policy a folder holds, by which the same command knows its work as done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that is taken out."""

    run: RunFolder
    checkpoint: Path
    names: Sequence[str]
    """Those that the run's evaluations may know it by."""


def export_policy(
    run: Path,
    *,
    checkpoint: str | None = None,
    merged: bool = False,
    out: Path | None = None,
    repository: str | None = None,
    words: Sequence[str] = (),
) -> Path:
    """Write a run's policy as a folder of its own, with its model card, and return the folder.

    Args:
        run: Run folder.
        checkpoint: Name such as ``checkpoint-80``; None takes the one that the run is judged by.
        merged: Write a whole model with the adapter in its weights, else the adapter alone.
        out: Folder to write; None is one below ``RUN/exports``.
        repository: Where on the hub the folder will lie, which its card then names.
        words: Overrides of the run's configuration, such as ``model.name_or_path=DIR``.

    Raises:
        ConfigError: The run has no such checkpoint, or ``out`` holds something else.
        AdapterError: The checkpoint cannot be used.
    """
    say = printer(True)
    quiet_when_redirected()
    source = _source(run, checkpoint)
    config, left_out = load_recorded_policy(run / "config.yaml", words)
    for key in left_out:
        if key != "rollout":
            say(f"! not taken from {run / 'config.yaml'}: {key}; to use it, give {key}=VALUE")
    is_whole = is_whole_model(source.checkpoint)
    if merged and is_whole:
        raise ConfigError([f"{source.checkpoint} is a whole model already (adapter: null); leave --merged out"])
    parts = [source.checkpoint.name, *["merged"] * merged, *(repository or "").split("/")]
    folder = out or run / "exports" / "-".join(filter(None, parts))
    record = {"policy": policy_identity(config, adapter=source.checkpoint), "merged": merged}
    if _is_done(folder, record):
        say(f"exported before, nothing was to do: {folder}")
        return folder
    with build_folder(folder) as building:
        write = _write_merged if merged else _write_model if is_whole else _write_adapter
        difference = write(config, source.checkpoint, building)
        exported = Exported(
            place=repository or str(folder),
            name=f"{run.resolve().name}-{source.checkpoint.name}",
            base=_public_name(config.model),
            dtype=str(config.model.init_kwargs.get("dtype", "auto")).removeprefix("torch."),
            processor_options=config.model.processor_kwargs,
            template_options=config.chat_template_kwargs,
            rank=None if is_whole or merged else open_adapter(building).rank,
            tasks=[
                (task, task.greedy(config.evaluation.max_tokens).max_tokens)
                for task in (config.known_tasks[name] for name in config.tasks)
            ],
            quantised=config.model.quantization if merged else None,
            difference=difference,
        )
        write_text(building / "README.md", model_card(source.run, exported, comparison=_comparison(source)))
        write_text(building / "recipe.yaml", yaml_without_secrets(source.run.config))
        for weights in building.glob("*.safetensors"):
            weights.chmod(0o644)  # written for their owner alone, which a server may not be
        write_json(building / RECORD, {**record, "checkpoint": source.checkpoint.name, "run": run.resolve().name})
    say(f"written to {folder}; its model card: {folder / 'README.md'}")
    if difference is not None:
        say(f"log-probabilities of merged weights and adapter differ by at most {difference:.2g} on a test prompt")
    return folder


def push(folder: Path, *, repository: str, public: bool) -> str:
    """Upload an exported folder to a repository of the hub, and return its address.

    Raises:
        TrainingError: The hub cannot be reached, or refuses.
    """
    # heavy: imported on use
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    hub = HfApi()
    try:
        address = hub.create_repo(repository, private=not public, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Export {folder.name}")
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        raise TrainingError(
            f"{folder} is written, and could not be pushed to {repository}: {first_line(error)}; log in with `hf auth "
            f"login`, unset HF_HUB_OFFLINE, and give the same command again"
        ) from error
    return str(address)


def _source(run: Path, checkpoint: str | None) -> Source:
    with suppress(GrpoMmpcError, OSError):  # a run that cannot be compared can be exported; its card says so
        update_comparison(run)
    folder, checkpoints = RunFolder(run, notes=[]), run / "checkpoints"
    newest = newest_checkpoint(checkpoints) if checkpoints.is_dir() else None
    if newest is None:
        raise ConfigError([f"{run} has no whole checkpoint under checkpoints/; give the folder of a trained run"])
    name = checkpoint or folder.reported or newest.name
    if name in ("final", "base"):
        name = newest.name
    if not (checkpoints / name).is_dir():
        known = ", ".join(sorted(path.name for path in checkpoints.glob("checkpoint-*")))
        raise ConfigError([f"{run} has no checkpoint {name!r}; it has {known}"])
    if problem := damage(checkpoints / name):
        raise AdapterError(f"{checkpoints / name} is damaged: {problem}; give another one by --checkpoint")
    names = [name, "final"] if name == newest.name else [name]
    return Source(run=folder, checkpoint=(checkpoints / name).resolve(), names=names)


def _is_done(folder: Path, record: dict[str, Any]) -> bool:
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    try:
        known = read_object(folder / RECORD)
    except (OSError, ValueError):
        known = {}
    if all(known.get(key) == value for key, value in record.items()):
        return True
    raise ConfigError([f"{folder} holds something else; choose another folder, or remove it"])


def _comparison(source: Source) -> "Comparison | None":
    known = source.run.comparison
    if known is not None and known.after in source.names:
        return known
    evaluations = source.run.evaluations
    after = next((evaluations[name] for name in source.names if name in evaluations), None)
    if after is None or "base" not in evaluations:
        return None
    return compare_evaluations(evaluations["base"], [after])[0]


def _write_adapter(config: "RunConfig", checkpoint: Path, folder: Path) -> None:
    section, content = config.model, read_object(checkpoint / CONFIG)
    content |= {"base_model_name_or_path": _public_name(section), "revision": section.init_kwargs.get("revision")}
    write_json(folder / CONFIG, content, indent=2)
    shutil.copyfile(checkpoint / WEIGHTS, folder / WEIGHTS)
    _processor(config, section).save_pretrained(folder)


def _write_model(config: "RunConfig", checkpoint: Path, folder: Path) -> None:
    section = whole_model(config.model, checkpoint)
    load_policy(section).save_pretrained(folder)
    _processor(config, section).save_pretrained(folder)


def _write_merged(config: "RunConfig", checkpoint: Path, folder: Path) -> float:
    """Write base and adapter as one; returns by how much that changed the log-probabilities."""
    section = config.model.model_copy(update={"quantization": None})
    adapted, processor = load_policy(section, adapter=checkpoint).eval(), _processor(config, section)
    before = _log_probabilities(adapted, processor)
    model = adapted.merge_and_unload(safe_merge=True)
    difference = float((_log_probabilities(model, processor) - before).abs().max())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return difference


def _processor(config: "RunConfig", section: "ModelSection") -> Any:
    return load_processor(section, chat_template_kwargs=config.chat_template_kwargs)


def _log_probabilities(model: Any, processor: Any) -> Any:
    """Return what may follow a short prompt with an image: log-probabilities [V], in nats."""
    # heavy: imported on use
    import torch

    with torch.no_grad():
        logits = model(**plain_inputs(processor, device=model.device)).logits
    return logits[0, -1].float().log_softmax(-1)


def _public_name(section: "ModelSection") -> str:
    """Return how PEFT, Transformers and vLLM find the base model: a hub name, or a whole path."""
    source = resolve_model(section.name_or_path)
    return str(Path(source).resolve()) if Path(source).is_dir() else source
