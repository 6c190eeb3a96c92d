"""Names of the hub where there is no network: one short look, then words."""

import httpx
import pytest
from huggingface_hub import constants

from grpo_mmpc.errors import GrpoMmpcError
from grpo_mmpc.utils import content
from grpo_mmpc.utils.content import content_identity, refuse_unreachable


@pytest.fixture
def looked(monkeypatch, tmp_path):
    """Return the list of addresses that were asked; none of them answers."""
    asked = []

    class Session:
        def head(self, address, **options):
            asked.append(address)
            raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    content._unreachable.cache_clear()
    yield asked
    content._unreachable.cache_clear()


def test_a_model_that_is_nowhere_is_refused_at_once_and_the_hub_is_looked_for_once(looked):
    for name in ("org/one", "org/two"):
        with pytest.raises(OSError, match=r"not in the local cache.* cannot be reached \(Name or service not known\)"):
            refuse_unreachable(name)
        assert content_identity(name, download=True) is None
    assert looked == [constants.ENDPOINT]


def test_a_folder_needs_no_hub_and_forbidden_downloads_are_not_tried(looked, tmp_path, monkeypatch):
    refuse_unreachable(str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refuse_unreachable("org/one")
    assert not looked


def test_encoders_policies_and_renderers_look_before_they_load(looked):
    from grpo_mmpc.config import ModelSection
    from grpo_mmpc.encoders.loading import load
    from grpo_mmpc.models.policy import load_policy
    from grpo_mmpc.models.processor import load_processor
    from grpo_mmpc.rendering.diffusers import DiffusersRenderer

    section = ModelSection(name_or_path="org/one")
    for loading in (
        lambda: load("CLIP", "org/one", pytest.fail),
        lambda: load_policy(section),
        lambda: load_processor(section),
        lambda: DiffusersRenderer(model="org/one"),
    ):
        with pytest.raises(GrpoMmpcError, match="cannot be reached"):
            loading()
    assert len(looked) == 1
