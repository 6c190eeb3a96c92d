"""The configuration that a run folder holds: data, which may name no code of its own accord."""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from grpo_mmpc.config.loading import Check, merge_layers, validate
from grpo_mmpc.config.problems import origin_of
from grpo_mmpc.config.sections import RunConfig
from grpo_mmpc.errors import ConfigError

_EMBEDDED = "nano:"
_IMPORTED = re.compile(r"rewards\.mix\.[^.]+\.name|(.+\.)?renderer")


def load_recorded(
    recorded: Path,
    files: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    trusted: Collection[str],
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
        checks: See ``load_config``.

    Raises:
        ConfigError: With all problems; of code, with its keys and what allows it.
    """
    layers = merge_layers([recorded, *files], overrides)
    own = set(merge_layers(files, overrides).origins.values())
    foreign = {
        key: target
        for key, target in _targets(layers.merged)
        if origin_of(key, layers.origins) not in own and target not in trusted
    }
    if foreign:
        options = " ".join(f"--trust {target}" for target in dict.fromkeys(foreign.values()))
        raise ConfigError(
            [
                *(f"{recorded}: {key}: {target!r} names code" for key, target in foreign.items()),
                f"code that a run folder names is executed only where you say that you know it: {options}; or name "
                "another mix",
            ]
        )
    return validate(RunConfig, layers, checks=checks)


def _targets(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted keys whose value is imported: ``module:factory`` or ``file.py:factory``."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in entries:
        key = f"{path}.{name}" if path else str(name)
        if name == "trust_remote_code" and value:
            yield key, str(name)
        elif isinstance(value, str) and _IMPORTED.fullmatch(key):
            if ":" in value and not value.startswith(_EMBEDDED):
                yield key, value
        else:
            yield from _targets(value, key)
