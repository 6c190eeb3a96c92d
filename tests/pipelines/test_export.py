"""An exported policy needs nothing of us: PEFT, Transformers and vLLM load the trained one."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_mmpc.cli import main
from grpo_mmpc.config.sections import ModelSection
from grpo_mmpc.models.policy import load_policy
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rollout.prompts import plain_inputs
from grpo_mmpc.training.checkpoint import seal
from grpo_mmpc.utils.model_paths import resolve_model
from tests.reports.run.fake_run import CONFIG, build_run
from tests.rollout.vllm_policies import with_random_adapter


def section(architecture: str, **options: Any) -> ModelSection:
    return ModelSection(name_or_path=f"nano:{architecture}", init_kwargs={"dtype": "float32"}, **options)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "gemma3"])
def finished(request, tmp_path_factory) -> tuple[Path, str]:
    """A finished run whose checkpoints hold an adapter that changes the policy."""
    run = tmp_path_factory.mktemp(request.param) / "run"
    model = f"nano:{request.param}\n  init_kwargs: {{dtype: float32}}"
    build_run(run, items_per_category=4, config=CONFIG.replace("nano:qwen2_5_vl", model))
    adapted = with_random_adapter(load_policy(section(request.param)), seed=1)
    for step in (60, 80):
        saving = run / "checkpoints" / ".saving"
        adapted.save_pretrained(str(saving))
        (saving / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        seal(saving, run / "checkpoints" / f"checkpoint-{step}", reward_state={})
    return run, request.param


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def log_probabilities(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits[0, -1].float().log_softmax(-1)


def trained(run: Path, base: ModelSection) -> tuple[torch.Tensor, Any]:
    """Log-probabilities [V] of the run's policy after a prompt with an image, and that prompt."""
    inputs = plain_inputs(load_processor(base), device="cpu")
    return log_probabilities(load_policy(base, adapter=run / "checkpoints/checkpoint-80"), inputs), inputs


@pytest.mark.parametrize("merged", [False, True])
def test_the_code_of_the_card_loads_the_trained_policy(run: Path, finished, merged: bool) -> None:
    assert main(["export", str(run), *["--merged"] * merged]) == 0
    folder = run / "exports" / ("checkpoint-80-merged" if merged else "checkpoint-80")
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code[1], names)
    expected, inputs = trained(run, section(finished[1]))
    assert torch.allclose(log_probabilities(names["model"], inputs), expected, atol=1e-4)
    assert (log_probabilities(load_policy(section(finished[1])), inputs) - expected).abs().max() > 0.1
    ours = plain_inputs(load_processor(section(finished[1])), device="cpu")
    theirs = plain_inputs(names["processor"], device="cpu")
    assert {name: tensor.tolist() for name, tensor in theirs.items()} == {
        name: tensor.tolist() for name, tensor in ours.items()
    }


def test_the_card_shows_the_comparison_of_the_run(run: Path) -> None:
    assert main(["export", str(run), "--to", str(run / "card")]) == 0
    card = (run / "card" / "README.md").read_text("utf-8")
    cell = json.loads((run / "comparison.json").read_text())["tasks"]["image_to_text"]["metrics"]["bleu"]
    low, high = cell["ci95"]
    numbers = f"{cell['before']:.3f} | {cell['after']:.3f} | {cell['delta']:+.3f} | {low:+.3f} to {high:+.3f}"
    assert f"| BLEU \\* | {numbers} | {cell['verdict']} |" in card
    assert "- Rewards: bleu 0.4, bertscore 0.4, clip_similarity 0.2, json_format 0.1\n" in card


def test_a_checkpoint_without_evaluation_says_so_instead_of_showing_another_ones(run: Path) -> None:
    shutil.rmtree(run / "evaluations" / "checkpoint-60")
    assert main(["export", str(run), "--checkpoint", "checkpoint-60"]) == 0
    card = (run / "exports" / "checkpoint-60" / "README.md").read_text("utf-8")
    assert "This checkpoint was not evaluated beside the base model." in card
    assert "| BLEU" not in card


def test_the_same_command_again_does_nothing_and_another_one_does_not_replace_it(run: Path, capsys) -> None:
    out = run / "out"
    command = ["export", str(run), "--to", str(out)]
    assert main(command) == 0
    files = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(command) == 0
    assert "exported before, nothing was to do" in capsys.readouterr().out
    assert main([*command, "--merged"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == files


def test_what_cannot_be_exported_is_refused_in_words(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(run), "--checkpoint", "checkpoint-7"]) == 2
    assert "has no checkpoint 'checkpoint-7'; it has checkpoint-60, checkpoint-80" in capsys.readouterr().err
    weights = run / "checkpoints/checkpoint-80/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert main(["export", str(run), "--checkpoint", "checkpoint-80"]) == 2
    assert "adapter_model.safetensors has changed since it was written" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 2
    assert "no whole checkpoint under checkpoints/" in capsys.readouterr().err


@pytest.mark.parametrize("public", [False, True])
def test_nothing_but_a_named_repository_is_pushed_to_and_it_is_private_unless_asked(
    run: Path, public: bool, monkeypatch, capsys
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> str:
            calls.append(("create", {"name": name, **options}))
            return f"https://huggingface.co/{name}"

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", options))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert main(["export", str(run)]) == 0
    assert calls == []
    assert main(["export", str(run), "--to", "hub:shop/titles", *["--public"] * public]) == 0
    folder = run / "exports" / "checkpoint-80-shop-titles"
    assert calls[0] == ("create", {"name": "shop/titles", "private": not public, "exist_ok": True})
    assert (calls[1][1]["repo_id"], calls[1][1]["folder_path"]) == ("shop/titles", folder)
    assert 'PeftModel.from_pretrained(model, "shop/titles")' in (folder / "README.md").read_text("utf-8")
    assert "pushed to https://huggingface.co/shop/titles" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM was built for a GPU here")
@pytest.mark.parametrize("merged", [False, True])
def test_vllm_serves_what_was_trained(run: Path, finished, merged: bool, monkeypatch) -> None:
    from grpo_mmpc.rollout.prompts import plain_prompt
    from grpo_mmpc.rollout.vllm.cpu import cpu_environment

    for name, value in {**cpu_environment(), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}.items():
        monkeypatch.setenv(name, value)
    import torch._dynamo.config
    from transformers import AutoProcessor
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    assert main(["export", str(run), *["--merged"] * merged]) == 0
    folder = run / "exports" / ("checkpoint-80-merged" if merged else "checkpoint-80")
    # on a CPU vLLM's Gemma-3 has no bidirectional mask over images
    base = section(finished[1], **({"image_attention": "causal"} if finished[1] == "gemma3" else {}))
    expected, _ = trained(run, base)
    model = folder if merged else resolve_model(base.name_or_path)
    lora = {} if merged else {"enable_lora": True, "max_lora_rank": 8}
    torch._dynamo.config.disable = True
    engine = LLM(str(model), dtype="float32", max_model_len=160, limit_mm_per_prompt={"image": 1}, **lora)
    messages, images = plain_prompt(shows_image=True)
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = engine.generate(
        {"prompt_token_ids": ids, "multi_modal_data": {"image": images[0]}},
        SamplingParams(max_tokens=1, temperature=0.0, logprobs=5),
        lora_request=None if merged else LoRARequest("exported", 1, str(folder)),
    )[0].outputs[0]
    engine.llm_engine.engine_core.shutdown()
    assert len(answer.logprobs[0]) >= 5
    for token, value in answer.logprobs[0].items():
        assert value.logprob == pytest.approx(float(expected[token]), abs=2e-3)
