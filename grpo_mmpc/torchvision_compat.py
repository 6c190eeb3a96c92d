"""Lets torchvision be imported next to a torch build without CUDA.

The registry's torchvision wheel is linked against CUDA. Next to a CPU-only torch its compiled operators cannot load and
``import torchvision`` dies with "operator torchvision::nms does not exist", because it registers fake kernels for
operators nobody declared. Processors of vision-language models import torchvision, but never call those operators.
"""

import importlib.util

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[object] = []  # torch drops the declarations when the Library object is collected


def ensure_importable() -> None:
    """Declare torchvision's missing operators where, and only where, its own library cannot load.

    Call it before the first import of a processor. Does nothing on a CUDA build, without torchvision, or when called
    again.
    """
    import torch

    if torch.version.cuda is not None or _libraries or importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401  (the import is the test)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS.values():
        library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)
