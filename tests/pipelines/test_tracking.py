"""Evaluations in trackers: numbers with their intervals, and samples with their images."""

import json
import os
import tempfile
from types import SimpleNamespace

import pytest
from transformers.integrations import INTEGRATION_TO_CALLBACK

from grpo_mmpc.pipelines.tracking import SAMPLES, report_evaluation
from tests.reports.run.fake_run import build_run

os.environ["TRACKIO_DIR"] = tempfile.mkdtemp()  # it is read when trackio is imported
try:
    import trackio
except ImportError:
    trackio = None


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked") / "run"
    build_run(folder, items_per_category=4, checkpoints=("base",), compare=False)
    return folder / "evaluations" / "base" / "cqbench"


def trainer_with(*trackers, output):
    """Stand for a trainer whose trackers have been set up, as they are when it evaluates."""
    args = SimpleNamespace(
        report_to=list(trackers),
        output_dir=str(output),
        to_json_string=lambda: "{}",
        to_dict=dict,
        **{"project": "tracked", "run_name": "run", "trackio_space_id": None, "hub_private_repo": None},
        trackio_bucket_id=None,
    )
    state = SimpleNamespace(global_step=7, is_world_process_zero=True, is_hyper_param_search=False)
    callbacks = [INTEGRATION_TO_CALLBACK[name]() for name in trackers]
    model = SimpleNamespace(num_parameters=lambda: 1)
    return SimpleNamespace(
        args=args,
        state=state,
        control=None,
        model=model,
        processing_class=None,
        callback_handler=SimpleNamespace(callbacks=callbacks),
    )


def test_tensorboard_shows_means_intervals_and_samples_with_their_images(evaluation, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    trainer = trainer_with("tensorboard", output=tmp_path)
    report_evaluation(trainer, evaluation, step=5)
    trainer.callback_handler.callbacks[0].on_train_end(trainer.args, trainer.state, None)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    summary = json.loads((evaluation / "summary.json").read_text())
    [bleu] = events.Scalars("eval/image_to_text/bleu")
    low, high = (events.Scalars(f"eval/image_to_text/bleu/{end}")[0].value for end in ("low", "high"))
    assert (bleu.step, bleu.value) == (5, pytest.approx(summary["tasks"]["image_to_text"]["metrics"]["bleu"]["mean"]))
    assert low < bleu.value < high
    [text] = events.Tensors("eval/image_to_text samples/text_summary")
    table = text.tensor_proto.string_val[0].decode().splitlines()
    assert len(table) == 2 + SAMPLES and table[0].startswith("| item_id | category | reference | prediction |")
    assert "| attribute_recall |" in table[0] and "attribute_recall_color" not in table[0]
    images = [tag for tag in events.Tags()["images"] if tag.startswith("eval/text_to_image samples/")]
    assert sorted(tag.rpartition(" ")[2] for tag in images) == ["image"] * SAMPLES + ["rendered"] * SAMPLES
    assert trainer.state.global_step == 7, "what the trainer counts is left alone"


@pytest.mark.skipif(trackio is None, reason="trackio is not installed: pip install trackio")
def test_trackio_shows_means_intervals_and_samples_with_their_images(evaluation, tmp_path):
    from trackio.sqlite_storage import SQLiteStorage

    trainer = trainer_with("trackio", output=tmp_path)
    report_evaluation(trainer, evaluation, step=5)
    trackio.finish()
    numbers, tables = SQLiteStorage.get_logs("tracked", "run")
    assert numbers["train/global_step"] == tables["train/global_step"] == 5
    ends = [numbers[f"eval/image_to_text/bleu{end}"] for end in ("/low", "", "/high")]
    assert ends == sorted(ends) and ends[0] < ends[2]
    rows = tables["eval/text_to_image samples"]["_value"]
    assert len(rows) == SAMPLES and len({row["item_id"] for row in rows}) == SAMPLES
    assert all(row[name]["_type"] == "trackio.image" for row in rows for name in ("image", "rendered"))


def test_nothing_is_written_where_a_run_has_no_tracker(evaluation, tmp_path):
    report_evaluation(trainer_with(output=tmp_path), evaluation, step=5)
    assert list(tmp_path.iterdir()) == []
