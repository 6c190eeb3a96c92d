"""Access tokens, taken out of everything that is written down: a run folder is handed around."""

import re
from collections.abc import Iterator
from typing import Any

MASK = "***"
_KEYS = (
    r"(?:(?:(?:hub|hf|auth|access|use_auth|api|bearer|refresh|session)_)?token"
    r"|(?:\w+[_-])?(?:api[_-]?keys?|(?:access|judge|private|secret|signing)[_-]keys?|password|secret|authorization)"
    r"|auth|credentials?|headers)"
)
_KEY = re.compile(_KEYS, re.IGNORECASE)
_QUOTED = r"\"[^\"\n]*\"|'[^'\n]*'"
_ASSIGNED = re.compile(
    rf"(?i)((?<![A-Za-z0-9_]){_KEYS}[\"']?[ \t]*[:=][ \t]*)"
    rf"({_QUOTED}|\[[^\]]*\]|\{{[^}}]*\}}|(?:(?:Basic|Bearer|Digest|Token)\s+)?[^\s\"',}}\]]+)"
)
_LINE = re.compile(rf"(?i)(\s*)((?:- )*[\"']?{_KEYS}[\"']?\s*:)\s*(.*)")
"""A line of YAML that begins with such a key: its indentation, the key, the rest."""
_OPENING = re.compile(r"[\[{|>][+-]?\d*|")
"""A rest after which the value follows on deeper lines."""
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,})")
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#\"'<>]*@")
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


def masked(text: str) -> str:
    """Return a text, such as YAML or a command, with ``***`` for what ``without_secrets`` removes.

    Also for what looks like a token, wherever it stands.
    """
    text = "".join(_masked_lines(text))
    return _TOKEN.sub(MASK, _USER.sub(rf"\1{MASK}@", _ASSIGNED.sub(_masked_value, text)))


def _masked_lines(text: str) -> Iterator[str]:
    """Yield lines; of a key with its value on lines of its own, and of a whole line, the mask."""
    hidden: int | None = None
    for line in text.splitlines(keepends=True):
        indentation = len(line) - len(line.lstrip())
        if hidden is not None and (not line.strip() or indentation > hidden or line.lstrip().startswith("- ")):
            continue
        hidden = None
        found = _LINE.fullmatch(line.rstrip())
        rest = found[3] if found else ""
        if found and _OPENING.fullmatch(rest) and line.endswith("\n"):
            hidden = indentation + len(found[2]) - len(found[2].lstrip("- "))
            yield f"{found[1]}{found[2]} {MASK}\n"
        elif found and rest[:1] not in tuple("\"'[{") and rest.lower() not in _NONE:
            yield f"{found[1]}{found[2]} {MASK}{line[len(line.rstrip()) :]}"
        else:
            yield line


def _masked_value(match: re.Match[str]) -> str:
    value = match[2]
    if value.lower() in _NONE:
        return match[0]
    ends = value[0] + value[-1]
    return f"{match[1]}{ends[0]}{MASK}{ends[1]}" if ends in ('""', "''", "[]", "{}") else f"{match[1]}{MASK}"
