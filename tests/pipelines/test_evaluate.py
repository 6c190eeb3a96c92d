"""An evaluation by command replaces nothing of somebody else's run."""

import json

import pytest
import yaml

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.pipelines.evaluate import run_evaluation


@pytest.fixture
def run(make_config, tmp_path, monkeypatch):
    """Return a function that evaluates into the folder of a run, as far as the items are chosen."""
    monkeypatch.setattr("grpo_mmpc.pipelines.evaluate.build_suite", lambda config, data: pytest.skip("not refused"))
    monkeypatch.setattr("grpo_mmpc.pipelines.evaluate.open_checkpoint", lambda checkpoint: None)

    def evaluate(recorded: dict, *, fingerprint: str | None = None, checkpoint=None, out=None) -> None:
        config = make_config(run_dir=str(tmp_path / "run"))
        written = config.model_dump(mode="json")
        for part, values in recorded.items():
            written[part] |= values
        content = {"data": {"fingerprint": fingerprint or RunData(config).catalogue.fingerprint}}
        for name in ("run", "other"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(written))
            (tmp_path / name / "manifest.json").write_text(json.dumps(content))
        run_evaluation(config, checkpoint=checkpoint, out=out)

    return evaluate


def refused(evaluate, recorded: dict, message: str, **options) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        evaluate(recorded, **options)
    assert "holds another run" in str(caught.value) and "--out DIR" in str(caught.value)


def test_a_run_on_another_catalogue_keeps_its_evaluations(run):
    refused(run, {"data": {"catalogue": "elsewhere"}}, "its data.catalogue is elsewhere", fingerprint="another")


def test_a_run_of_another_model_keeps_its_base_evaluation(run):
    refused(run, {"model": {"name_or_path": "org/model"}}, "its model.name_or_path is org/model")


def test_a_checkpoint_is_not_evaluated_into_another_run(run, tmp_path):
    refused(run, {}, "is a checkpoint of .*other", checkpoint=tmp_path / "other/checkpoints/checkpoint-5")


@pytest.mark.parametrize("options", [{}, {"checkpoint": "run/checkpoints/checkpoint-5"}, {"out": "out"}])
def test_a_run_takes_evaluations_of_its_own_also_where_its_catalogue_was_moved(run, tmp_path, options):
    recorded = {"data": {"catalogue": "moved/away"}}
    if "out" in options:
        recorded["model"] = {"name_or_path": "org/model"}
    with pytest.raises(pytest.skip.Exception, match="not refused"):
        run(recorded, **{name: tmp_path / path for name, path in options.items()})
