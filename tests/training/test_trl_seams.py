"""The names of TRL and Transformers' trainer that training leans on: a moved one fails here."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from grpo_mmpc.training.arguments import grpo_arguments
from grpo_mmpc.training.trl_seams import COMPLETION_TENSORS, TOKEN_COUNT, TYPE_TENSORS, GRPOTrainer, TrainerCallback

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "grpo_mmpc"

FIELDS = {
    "reward_weights",
    "multi_objective_aggregation",
    "num_generations",
    "generation_batch_size",
    "steps_per_generation",
    "ds3_gather_for_generation",
    "shuffle_dataset",
    "output_dir",
    "seed",
    "disable_tqdm",
    "report_to",
    "log_multimodal",
}


def test_grpo_config_has_the_fields_that_are_set_or_read():
    from trl import GRPOConfig

    assert FIELDS <= {field.name for field in dataclasses.fields(GRPOConfig)}


@pytest.mark.parametrize("said", [{}, {"log_multimodal": True}])
def test_ranks_send_each_other_the_images_of_a_step_only_where_the_recipe_says_so(make_config, said):
    arguments = grpo_arguments(make_config(trainer=said))
    assert bool(arguments.log_multimodal) == bool(said)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_get_train_sampler", ["self", "dataset"]),
        ("_log_completion_extra", ["self", "column", "values"]),
        ("_generate", ["self", "prompts"]),
        ("_tokenize_prompts", ["self", "prompts"]),
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
        ("log", ["self", "logs", "start_time"]),
    ],
)
def test_overridden_and_called_methods_keep_their_signature(method, parameters):
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == parameters


def test_reward_functions_receive_the_keywords_that_the_mix_drops():
    source = inspect.getsource(GRPOTrainer._calculate_rewards)
    for keyword in ("prompts=", "completions=", "completion_ids=", '"trainer_state"', '"log_extra"', '"log_metric"'):
        assert keyword in source


def test_per_batch_logs_are_still_filled_after_the_advantages():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    for name in ("completion", "advantages", "extra", "rewards", "prompt", "images"):
        assert f'self._logs["{name}"]' in source


def test_the_trainer_keeps_the_settings_that_diagnosis_resampling_and_sampler_read():
    source = inspect.getsource(GRPOTrainer)
    for name in (
        "multi_objective_aggregation",
        "scale_rewards",
        "eos_token_ids",
        "reward_func_names",
        "shuffle_dataset",
        "num_iterations",
    ):
        assert f"self.{name}" in source
    assert '"num_items_in_batch": num_items_in_batch' in source


def test_metrics_hold_a_time_for_each_step_and_a_mean_length_for_each_batch_of_rollouts_until_they_are_logged():
    for name, method in (("step_time", "training_step"), ("completions/mean_length", "_generate")):
        source = inspect.getsource(getattr(GRPOTrainer, method))
        assert re.search(rf'self\._metrics\[(mode|"train")\]\["{name}"\]\.append\(', source)
    assert "self._metrics[mode].clear()" in inspect.getsource(GRPOTrainer.log)


@pytest.mark.parametrize("event", ["on_train_begin", "on_step_end", "on_log", "on_save"])
def test_callback_events_pass_arguments_state_and_control(event):
    assert list(inspect.signature(getattr(TrainerCallback, event)).parameters)[1:4] == ["args", "state", "control"]


def test_the_generation_helper_still_gathers_zero3_parameters():
    from trl.models.utils import unwrap_model_for_generation

    assert "gather_deepspeed3_params" in inspect.signature(unwrap_model_for_generation).parameters


def test_the_object_composed_for_vllm_is_only_asked_to_sync_and_to_generate():
    """``take_completions_from`` puts ours in its place."""
    source = inspect.getsource(GRPOTrainer)
    used = set(re.findall(r"self\.vllm_generation\.(\w+)", source))
    # vllm_client and llm: at construction in server mode, and for tools in colocate mode; neither
    # happens here
    assert used == {"sync_weights", "generate", "vllm_client", "llm"}
    assert 'self.use_vllm and self.vllm_mode == "colocate"' in source
    call = inspect.getsource(GRPOTrainer._generate_single_turn)
    assert "_, completion_ids, logprobs, _ = self.vllm_generation.generate(" in call
    assert "logprobs = [[lp[0] for lp in seq] for seq in logprobs]" in call
    assert "self.state.global_step != self._last_loaded_step" in call


def test_our_rollouts_take_what_trl_passes_to_its_own():
    from trl.generation.vllm_generation import VLLMGeneration

    from grpo_mmpc.rollout.vllm.rollouts import VLLMRollouts

    for method in ("sync_weights", "generate"):
        theirs, ours = (inspect.signature(getattr(owner, method)) for owner in (VLLMGeneration, VLLMRollouts))
        assert list(ours.parameters) == list(theirs.parameters)


def test_the_masked_fraction_can_be_read_off_the_batch():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert 'output["importance_sampling_ratio"] = vllm_importance_sampling_ratio' in source
    assert "vllm_importance_sampling_ratio.masked_fill(" in source


@pytest.mark.parametrize("name", [*COMPLETION_TENSORS, "completion_ids", "advantages", *TYPE_TENSORS, TOKEN_COUNT])
def test_a_batch_still_has_the_keys_that_resampling_and_dropping_change(name):
    assert f'"{name}"' in inspect.getsource(GRPOTrainer._generate_and_score_completions)


def test_no_other_key_of_a_batch_is_as_long_as_its_completions():
    """A per-token tensor that TRL adds must be replaced too, see ``COMPLETION_TENSORS``."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    literal, assigned = source.split("output = {")[1].split("}")[0], re.findall(r'output\["(\w+)"\] = ', source)
    of_the_prompt = {"prompt_ids", "prompt_mask", "pixel_values", "image_grid_thw", "pixel_attention_mask"}
    of_the_prompt |= {"spatial_shapes", "image_sizes", "image_position_ids", "num_images", "num_tiles"}
    replaced = {"completion_ids", "advantages", TOKEN_COUNT, *COMPLETION_TENSORS, *TYPE_TENSORS}
    of_tools = {"tool_mask"}  # our trainer has no tools
    assert {*re.findall(r'"(\w+)":', literal), *assigned} == of_the_prompt | replaced | of_tools


def test_all_reward_functions_of_a_batch_receive_one_list_of_completions():
    """The mix scores all rewards at TRL's first call, and knows the batch by its list."""
    received = []

    def reward(*, completions, **_):
        received.append(completions)
        return [0.0] * len(completions)

    trainer = SimpleNamespace(
        accelerator=Accelerator(cpu=True),
        reward_funcs=[reward, reward],
        reward_processing_classes=[None, None],
        reward_func_names=["a", "b"],
        state=SimpleNamespace(global_step=0),
        environments=None,
        args=SimpleNamespace(report_to=[]),
        _log_completion_extra=None,
        _log_metric=None,
    )
    completions = ["one", "two"]
    GRPOTrainer._calculate_rewards(trainer, [{"prompt": "p"}] * 2, ["p", "p"], completions, [[1], [2]])
    assert [one is completions for one in received] == [True, True]


def test_a_sharded_parameter_still_tells_its_whole_size():
    deepspeed = pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    source = inspect.getsource(deepspeed.runtime.zero.partition_parameters)
    assert "param.ds_numel = param.numel()" in source and "param.ds_id = " in source


def test_models_still_name_the_blocks_that_fsdp_wraps_and_accelerate_reads_ours():
    from accelerate import FullyShardedDataParallelPlugin
    from transformers import PreTrainedModel

    assert hasattr(PreTrainedModel, "_no_split_modules")
    plugin = inspect.getsource(FullyShardedDataParallelPlugin.set_auto_wrap_policy)
    assert "self.transformer_cls_names_to_wrap" in plugin and "_no_split_modules" in plugin


def test_transformers_still_finds_its_deepspeed_settings_by_the_reference_that_encoders_hide():
    from transformers.integrations import deepspeed

    source = inspect.getsource(deepspeed.is_deepspeed_zero3_enabled) + inspect.getsource(deepspeed.deepspeed_config)
    assert "_hf_deepspeed_config_weak_ref" in source


# ---- no other file leans on them, and the docs say so --------------------------------------------


def attributes(path: Path) -> set[tuple[str, str]]:
    """(object, attribute) of every access to an attribute with a leading underscore."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)]
    return {(ast.unparse(n.value), n.attr) for n in nodes if re.match(r"_[a-z]", n.attr)}


def test_no_other_file_touches_a_private_name_of_another_object():
    for path in [*(PACKAGE / "training").glob("*.py"), PACKAGE / "rewards" / "mix.py"]:
        if path.name != "trl_seams.py":
            assert {of for of, _ in attributes(path)} <= {"self", "cls"}, path


def test_our_trainer_has_no_private_name_in_common_with_those_it_extends():
    from transformers import Trainer

    theirs = set(re.findall(r"self\.(_[a-z]\w*)", inspect.getsource(GRPOTrainer) + inspect.getsource(Trainer)))
    theirs |= {name for name in dir(GRPOTrainer) if re.match(r"_[a-z]", name)}
    ours = {name for _, name in attributes(PACKAGE / "training" / "trainer.py")}
    assert ours and not ours & theirs


def upstream_rows(section: str) -> dict[str, str]:
    """Name and test of every row in a section of docs/upstream.md."""
    text = (ROOT / "docs" / "upstream.md").read_text("utf-8").split(f"\n## {section}")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0]: cells[2] for cells in rows}


def test_the_docs_list_every_private_name_and_the_tests_they_name_exist():
    rows = upstream_rows("TRL") | upstream_rows("Transformers' trainer, Accelerate and DeepSpeed")
    listed = set(re.findall(r"\b(_[a-z]\w*)`", " ".join(rows)))
    used = {name for _, name in attributes(PACKAGE / "training" / "trl_seams.py")}
    assert used | {"_hf_deepspeed_config_weak_ref"} == listed
    for name, test in rows.items():
        file, function = re.fullmatch(r"`(\S+)::(\w+)`", test).groups()
        assert f"def {function}(" in (ROOT / "tests" / file).read_text("utf-8"), name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/upstream.md"])
def test_the_number_of_names_of_trl_is_said_as_it_is(page):
    text = " ".join((ROOT / page).read_text("utf-8").split())
    assert f"leans on {len(upstream_rows('TRL'))} private or undocumented names of TRL" in text


def test_images_leave_the_prompts_before_trl_sends_them_to_all_ranks(monkeypatch):
    from trl import GRPOTrainer as Plain

    from grpo_mmpc.training.trl_seams import SeamedGRPOTrainer

    source = inspect.getsource(Plain._generate_and_score_completions)
    assert ") = self._generate(prompts)\n" in source
    assert 'self._logs["prompt"].extend(gather_object(prompts))' in source
    seen = []
    monkeypatch.setattr(Plain, "_generate", lambda self, prompts: seen.extend(map(str, prompts)))
    prompts = [[{"role": "user", "content": [{"type": "image", "image": "pixels"}, {"type": "text", "text": "t"}]}]]
    SeamedGRPOTrainer.generate_completions(object.__new__(SeamedGRPOTrainer), prompts)
    assert "pixels" in seen[0]
    assert prompts == [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "t"}]}]]
