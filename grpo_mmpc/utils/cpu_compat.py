"""The repair that lets Transformers import next to a torch build without CUDA.

The registry's torchvision, torchaudio and torchcodec wheels are linked against CUDA. Next to a
CPU-only torch their compiled parts cannot load: ``import torchvision`` dies with "operator
torchvision::nms does not exist", because it registers fake kernels for operators nobody declared,
the other two die on a missing libc10_cuda.so. Processors of vision-language models import
torchvision but never call those operators; the audio packages are imported only because they are
there (vLLM depends on them), and nothing here listens to anything.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OPERATORS = ("nms", "qnms")
_libraries: list[object] = []  # torch drops the declarations when the Library object is collected
_done: list[bool] = []
_lock = threading.RLock()


def ensure_importable() -> None:
    """Replace those of the packages whose own library cannot load.

    Call it before the first import of a model or processor. Does nothing on a CUDA build or when
    called again.
    """
    import torch

    with _lock:  # a second thread must not import a model while the first one still repairs
        if torch.version.cuda is None and not _done:
            _declare_torchvision_operators(torch)
            _replace_broken_audio()
            _done.append(True)


@contextmanager
def for_children() -> Iterator[None]:
    """Let Python processes started inside the block repair themselves, by a ``sitecustomize``.

    vLLM looks at model classes in a child process, which imports torchvision before any vLLM plugin
    could run.
    """
    import torch

    if torch.version.cuda is not None:
        yield
        return
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "cpu_site"), *filter(None, [before])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _declare_torchvision_operators(torch: Any) -> None:
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401  (the import is the test)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


def _cannot_load(package: str) -> bool:
    if package in sys.modules or importlib.util.find_spec(package) is None:
        return False
    try:
        importlib.import_module(package)
    except (OSError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]
        return True
    return False


def _replace_broken_audio() -> None:
    # Transformers may have looked for torchaudio already and will import it: give it an empty
    # module.
    if _cannot_load("torchaudio"):
        stub = types.ModuleType("torchaudio")
        stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = stub
    # vLLM tries torchcodec and is content with an ImportError: None is the import system's word for
    # "not there".
    if _cannot_load("torchcodec"):
        sys.modules["torchcodec"] = None  # type: ignore[assignment]
        # Where datasets came first, it found the package and would import it; this is its own
        # switch.
        datasets_config: Any = sys.modules.get("datasets.config")
        if datasets_config is not None:
            datasets_config.TORCHCODEC_AVAILABLE = False
