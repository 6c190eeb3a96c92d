"""The repair of imports in vLLM's child processes, found where ``cpu_compat.for_children`` says."""

import importlib.util
import sys
from pathlib import Path

from grpo_mmpc.utils.cpu_compat import ensure_importable


def _run_shadowed_sitecustomize() -> None:
    """Run the next ``sitecustomize`` on the path, which this file hides."""
    here = Path(__file__).parent
    for folder in sys.path:
        file = Path(folder) / "sitecustomize.py"
        if Path(folder) != here and file.is_file():
            spec = importlib.util.spec_from_file_location("sitecustomize", file)
            if spec is not None and spec.loader is not None:
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
            return


_run_shadowed_sitecustomize()
ensure_importable()
