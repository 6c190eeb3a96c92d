"""The identity of a model folder whose config.json is broken, which only loading refuses."""

from grpo_mmpc.utils.content import content_identity


def test_a_broken_config_has_an_identity_like_any_file(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"')
    broken = content_identity(tmp_path)
    assert broken is not None
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert content_identity(tmp_path) not in (None, broken)
