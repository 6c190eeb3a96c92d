"""Access tokens, taken out of everything that is written down: a run folder is handed around."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

MASK = "***"
_KEYS = (
    r"(?:(?:(?:hub|hf|auth|access|use_auth|api|bearer|refresh|session)_)?token|auth|credentials?|cookie"
    r"|(?:[\w-]{0,40}[_-])?(?:api[_-]?keys?|(?:access|judge|private|secret|signing)[_-]keys?|password|secret|authorization))"
)
_KEY = re.compile(_KEYS, re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?i)((?<!\w){_KEYS}[\"']?[ \t]*[:=][ \t]*[\"']?)"
    r"(\[[^\]]*\]|\{[^}]*\}|(?:(?:Basic|Bearer|Digest|Token)\s+)?[^\s\"',}\]]+)"
)
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,})")
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}://)[^\s/?#\"'<>]*@")
"""The user and password of a URL."""
_NONE = ("null", "none", "true", "false", "~", "[]", "{}", MASK)
_TASKS = "own_tasks"
"""A section whose keys are attributes of products."""


def without_secrets(content: Any) -> Any:
    """Return plain data in which the value of every key such as ``hub_token`` is None.

    Libraries then take the token of the environment (HF_TOKEN), as they do without one. URLs lose
    their user and password.
    """
    if isinstance(content, dict):
        return {
            key: value if key == _TASKS else None if _is_secret(key, value) else without_secrets(value)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [without_secrets(value) for value in content]
    return _USER.sub(r"\1", content) if isinstance(content, str) else content


def secret_keys(content: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted keys whose values ``without_secrets`` changes."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in entries:
        if _is_secret(name, value) or (isinstance(value, str) and _USER.search(value)):
            yield f"{path}{name}"
        elif name != _TASKS:
            yield from secret_keys(value, f"{path}{name}.")


def _is_secret(key: Any, value: Any) -> bool:
    return _KEY.fullmatch(str(key)) is not None and _holds_text(value)


def _holds_text(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, str) or any(map(_holds_text, parts))


def yaml_without_secrets(content: Any) -> str:
    """Return a configuration as YAML; see ``without_secrets``."""
    return yaml.safe_dump(without_secrets(content), sort_keys=False, allow_unicode=True)


def masked(text: str) -> str:
    """Return a text, such as a word of a command, with ``***`` for what ``without_secrets`` hides.

    Also for what looks like a token, wherever it stands.
    """

    def mask(match: re.Match[str]) -> str:
        return match[0] if match[2].lower() in _NONE else f"{match[1]}{MASK}"

    return _TOKEN.sub(MASK, _USER.sub(rf"\1{MASK}@", _ASSIGNED.sub(mask, text)))
