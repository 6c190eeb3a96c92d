"""Access tokens, taken out of everything that is written down: a run folder is handed around."""

import re
from collections.abc import Iterator
from typing import Any

MASK = "***"
_KEYS = r"(?:(?:hub|hf|auth|access|use_auth)_)?token|(?:\w+_)?(?:api_?key|access_key|password|secret)"
_KEY = re.compile(_KEYS, re.IGNORECASE)
_ASSIGNED = re.compile(rf"(?i)((?<![A-Za-z0-9_])(?:{_KEYS})[\"']?\s*[:=]\s*)([\"']?)([^\s\"',}}]+)")
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,})")
_NONE = ("null", "none", "true", "false", "~", MASK)


def without_secrets(content: Any) -> Any:
    """Return plain data in which the value of every key such as ``hub_token`` is None.

    Libraries then take the token of the environment (HF_TOKEN), as they do without one.
    """
    if isinstance(content, dict):
        return {
            key: None if isinstance(value, str) and _KEY.fullmatch(str(key)) else without_secrets(value)
            for key, value in content.items()
        }
    return [without_secrets(value) for value in content] if isinstance(content, list) else content


def secret_keys(content: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted keys whose values ``without_secrets`` takes out."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in entries:
        if isinstance(value, str) and _KEY.fullmatch(str(name)):
            yield f"{path}{name}"
        yield from secret_keys(value, f"{path}{name}.")


def masked(text: str) -> str:
    """Return a text with ``***`` for the values of such keys, and for what looks like a token."""

    def mask(match: re.Match[str]) -> str:
        return match[0] if match[3].lower() in _NONE else f"{match[1]}{match[2]}{MASK}"

    return _TOKEN.sub(MASK, _ASSIGNED.sub(mask, text))
