"""Tests of a CUDA device: the same job, encoders and recommenders as on CPUs. Run by ``make
test-gpu``."""

from pathlib import Path

import pytest

DEVICE = "cuda"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    import torch

    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(missing)


@pytest.fixture(autouse=True)
def whole_precision():
    """Products in fp32, so that results can be compared with a CPU's."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
