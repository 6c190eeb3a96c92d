"""The configuration that a run folder holds: data, which may name no code of its own accord."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from grpo_mmpc.config.loading import Check, is_task_file, merge_layers, validate
from grpo_mmpc.config.problems import origin_of, schema_problems
from grpo_mmpc.config.sections import DataSection, RunConfig
from grpo_mmpc.config.yaml_files import read_yaml
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.files import read_object, read_own
from grpo_mmpc.utils.sections import section

_REMOTE = ("images_api", "llm_judge")
"""A renderer and a reward that send texts, and a key of the environment, to an address beside their
name."""
_IMPORTED = re.compile(r"rewards\.mix\.[^.]+\.name|(.+\.)?renderer")


def config_of_run(checkpoint: Path) -> Path | None:
    """Return the ``config.yaml`` of the run that has written a checkpoint; None outside of runs."""
    recorded = checkpoint.resolve().parent.parent / "config.yaml"
    return recorded if recorded.is_file() else None


def is_of_a_run(folder: Path) -> bool:
    """Return whether a folder's ``manifest.json`` or ``config.yaml`` is that of a run."""
    if "command" in read_object(folder / "manifest.json"):
        return True
    try:
        return not {"run_dir", "model", "rewards"}.isdisjoint(read_yaml(folder / "config.yaml"))
    except ConfigError:
        return False


def load_recorded(
    recorded: Path,
    files: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    trusted: Collection[str],
    used: Collection[str],
    checks: Sequence[Check] = (),
) -> RunConfig:
    """Load a run's ``config.yaml`` with recipes and overrides of the command line merged over it.

    Only what the command line names, and recipes named there, may name code: anything else of the
    kind is refused before it is imported, whoever the run is from.

    Args:
        recorded: The file of the run folder.
        files: Recipes.
        overrides: ``key=value``.
        trusted: Targets that the user names as known to him.
        used: Sections that the caller acts on; the others are read and not looked at.
        checks: See ``load_config``.

    Raises:
        ConfigError: With all problems; of code, with its keys and what allows it.
    """
    _refuse_elsewhere(recorded)
    layers = merge_layers([recorded, *files], overrides)
    own = set(merge_layers(files, overrides).origins.values())
    foreign = {
        key: target
        for key, target in _targets({name: layers.merged[name] for name in used if name in layers.merged})
        if origin_of(key, layers.origins) not in own and target not in trusted
    }
    if foreign:
        options = " ".join(f"--trust {target}" for target in dict.fromkeys(foreign.values()))
        raise ConfigError(
            [
                *(
                    f"{recorded}: {key}: {target!r} names {'a server' if target in _REMOTE else 'code'}"
                    for key, target in foreign.items()
                ),
                f"code that a run folder names is executed only where you say that you know it (and a server asked): "
                f"{options}; or name another mix",
            ]
        )
    return validate(RunConfig, layers, checks=checks)


def load_recorded_policy(
    recorded: Path, overrides: Sequence[str] = (), *, checks: Sequence[Check] = ()
) -> tuple[RunConfig, list[str]]:
    """Load which model a run's ``config.yaml`` trained, how it is asked, and nothing else.

    Rewards, renderer, engine and whatever else may name code or a place are not taken from it; the
    command line may add them. Who needs a renderer says so where something is to be rendered.

    Returns:
        The configuration, and the keys of the file that were left out although they would matter.

    Raises:
        ConfigError: With all problems.
    """
    _refuse_elsewhere(recorded)
    layers = merge_layers([recorded])
    raw = layers.merged
    model, trainer, evaluation = (section(raw, name) for name in ("model", "trainer", "evaluation"))
    left: list[str] = []

    def kept(name: str, options: Mapping[str, Any], is_kept: Callable[[str, Any], bool]) -> dict[str, Any]:
        left.extend(f"{name}.{key}" for key, value in options.items() if not is_kept(key, value))
        return {key: value for key, value in options.items() if is_kept(key, value)}

    for name in ("init_kwargs", "processor_kwargs"):
        is_kept = _is_plain if name == "init_kwargs" else _is_for_processor
        model = {**model, name: kept(f"model.{name}", section(model, name), is_kept)}
    name = "chat_template_kwargs"
    trainer = {name: kept(f"trainer.{name}", section(trainer, name), _is_for_template)}
    model = {key: value for key, value in model.items() if key != "init_from"}  # a place outside; a checkpoint is asked
    layers.merged = {
        "run_dir": str(recorded.parent),
        "model": model,
        "adapter": {},
        "data": {"catalogue": "nano:catalogue"},
        "rewards": {"mix": [{"name": "json_format", "weight": 1.0}]},
        "trainer": trainer,
        **{name: raw[name] for name in ("tasks", "own_tasks") if name in raw},
        "evaluation": {key: evaluation[key] for key in ("max_tokens", "batch_size") if key in evaluation},
    }
    left += ["rollout"] if section(raw, "rollout").get("backend") == "vllm" else []
    return validate(RunConfig, merge_layers([], overrides, onto=layers), checks=checks), left


def recorded_data(recorded: Path) -> DataSection:
    """Load from a run's ``config.yaml`` which items of which catalogue it held out.

    Raises:
        ConfigError: With all problems.
    """
    _refuse_elsewhere(recorded)
    content = section(read_yaml(recorded), "data")
    if problems := [f"{recorded}: {key}: {what}" for key, what in schema_problems(content, DataSection, key="data")]:
        raise ConfigError(problems)
    return DataSection.model_validate(content)


def _refuse_elsewhere(recorded: Path) -> None:
    """Refuse a file that is none, such as a device, or lies behind a link out of its folder."""
    with suppress(FileNotFoundError, IsADirectoryError):  # which the reader says better
        try:
            read_own(recorded, folder=recorded.parent)
        except OSError as error:
            if error.errno is not None:
                raise
            raise ConfigError([f"{recorded}: {error}"]) from error
        tasks = read_yaml(recorded).get("tasks")
        if isinstance(tasks, list) and any(map(is_task_file, tasks)):
            raise ConfigError([f"{recorded}: tasks names files, which a run never does: it holds its tasks itself"])


def _is_plain(key: str, value: Any) -> bool:
    """Return whether an option of ``from_pretrained`` loads no code, nor a kernel of the hub."""
    if key == "trust_remote_code":
        return False
    # Numbers are sizes and switches; a slash in a name means a repository.
    plain_names = ("dtype", "torch_dtype", "revision", "attn_implementation", "backend")
    return isinstance(value, int | float | None) or (key in plain_names and "/" not in str(value))


def _is_for_processor(key: str, value: Any) -> bool:
    """Return the same of an option of a processor, which may hold several: both edges of a size."""
    parts = value.items() if isinstance(value, dict) else [(key, value)]
    return all(_is_plain(name, part) for name, part in parts)


def _is_for_template(key: str, value: Any) -> bool:
    """Return whether an option of a chat template is a switch or a word, and no template itself."""
    return _is_for_processor(key, value) or (isinstance(value, str) and key != "chat_template" and "/" not in value)


def _targets(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted keys whose value is imported or asked.

    ``module:factory`` and ``file.py:factory`` are imported.
    """
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in entries:
        key = f"{path}.{name}" if path else str(name)
        if name == "trust_remote_code" and value:
            yield key, str(name)
        elif isinstance(value, str) and _IMPORTED.fullmatch(key):
            if value in _REMOTE or ":" in value:
                yield key, value
        else:
            yield from _targets(value, key)
