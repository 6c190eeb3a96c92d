"""The repair that lets Transformers import next to a torch build without CUDA.

The registry's torchvision, torchaudio and torchcodec wheels are linked against CUDA. Next to a
CPU-only torch their compiled parts cannot load: ``import torchvision`` dies with "operator
torchvision::nms does not exist", because it registers fake kernels for operators nobody declared,
the other two die on a missing libc10_cuda.so. Processors of vision-language models import
torchvision but never call those operators; the audio packages are imported only because they are
there (vLLM depends on them), and nothing here listens to anything.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

_OPERATORS = ("nms", "qnms")
_libraries: list[object] = []  # torch drops the declarations when the Library object is collected
_AT_START = (
    "import importlib.util; importlib.util.find_spec('grpo_mmpc') and "
    "__import__('grpo_mmpc.utils.cpu_compat', fromlist=['_']).ensure_importable()\n"
)


def ensure_importable() -> None:
    """Let those of the packages load whose own library cannot, when they are first imported.

    Call it before the first import of a model or processor. Where their libraries load, as beside a
    torch with CUDA, nothing changes.
    """
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


@contextmanager
def for_children() -> Iterator[None]:
    """Let Python processes started inside the block repair themselves, by a ``sitecustomize``.

    vLLM looks at model classes in a child process, which imports torchvision before any vLLM plugin
    could run.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "cpu_site"), *filter(None, [before])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def repair_environment() -> Path | None:
    """Let every Python process of this environment repair itself, where torch has no CUDA.

    ``accelerate launch`` looks into timm, and so into torchvision, before anything of ours runs.
    ``make env`` calls this.

    Returns:
        The file in ``site-packages`` that Python reads when it starts; None where none is needed.
    """
    import torch  # heavy: imported on use

    if torch.version.cuda is not None:
        return None
    file = Path(sysconfig.get_path("purelib")) / "grpo_mmpc_cpu.pth"
    file.write_text(_AT_START, encoding="utf-8")
    return file


class _Finder:
    """Finds the three packages where they are, with a loader that copes."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in ("torchvision", "torchaudio", "torchcodec"):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except (OSError, RuntimeError) as error:
            torch: Any = import_module("torch")  # heavy; whoever imports these packages has it

            if torch.version.cuda is not None or (self.name == "torchvision" and "torchvision::" not in str(error)):
                raise
            if self.name == "torchvision":
                library = torch.library.Library("torchvision", "FRAGMENT")
                for name in _OPERATORS:
                    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                _libraries.append(library)
                super().exec_module(module)
                return
            for name in [name for name in sys.modules if name.startswith(f"{self.name}.")]:
                del sys.modules[name]
            if self.name == "torchcodec":  # vLLM and datasets are content with that
                raise ImportError(f"{self.name} cannot load beside a torch without CUDA: {error}") from error
            # Transformers imports torchaudio because it is there: it gets a module without content.


@cache
def load_to_numbered_cpus() -> None:
    """Let ``torch.load`` map to ``cpu:0``, which Accelerate calls the device of launched processes.

    Without it a run of several processes on CPUs could not read its own optimizer again. Cached:
    torch sorts its registry, and cannot sort two entries of one priority.
    """
    import torch  # heavy: imported on use

    torch.serialization.register_package(
        100, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
    )
