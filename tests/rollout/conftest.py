"""Two fake vLLM servers."""

from collections.abc import Iterator

import pytest

from tests.rollout.fake_vllm_server import FakeVLLM


@pytest.fixture
def fakes() -> Iterator[list[FakeVLLM]]:
    servers = [FakeVLLM(), FakeVLLM()]
    yield servers
    for server in servers:
        server.stop()
