"""The diffusers renderer on tiny pipelines of the real classes, loaded as real ones are."""

import inspect
import json
import logging
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from grpo_mmpc.errors import EvaluationError, GrpoMmpcError, ScoringError
from grpo_mmpc.rendering.diffusers import PAPER_CALL_KWARGS, PAPER_MODEL, DiffusersRenderer
from grpo_mmpc.rendering.registry import check_renderer
from grpo_mmpc.rendering.renderer import CountsTokens, render
from grpo_mmpc.rendering.store import render_into, render_seed
from grpo_mmpc.utils.single_out import Failure, Raised
from tests.rendering.tiny_pipelines import save_stable_diffusion, save_stable_diffusion_3

SD, SD3 = "stable_diffusion", "stable_diffusion_3"
PROMPTS = ["a red mug", "two green socks", "one lamp, 40 watt", "a kite"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {SD: str(save_stable_diffusion(root / SD)), SD3: str(save_stable_diffusion_3(root / SD3))}


@pytest.fixture(scope="module")
def make(folders):
    def make(kind=SD3, **options):
        return DiffusersRenderer(model=folders[kind], device="cpu", **options)

    return make


def pixels(image):
    return np.asarray(image).astype(int)


def largest_difference(left, right):
    return np.abs(pixels(left) - pixels(right)).max()


class PipelineThat:
    """A pipeline with something done before each call; remembers the sizes of calls."""

    def __init__(self, pipeline, before):
        self.pipeline, self.before, self.sizes = pipeline, before, []

    def __call__(self, *, prompt, **options):
        self.sizes.append(len(prompt))
        self.before(prompt, options)
        return self.pipeline(prompt=prompt, **options)


# One seed per image -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "call_kwargs"),
    # eta: noise is sampled again in every step, which must come from the image's own generator,
    # too.
    [(SD3, {}), (SD, {}), (SD, {"eta": 1.0, "guidance_scale": 3.0})],
)
def test_a_image_does_not_depend_on_its_batch(make, kind, call_kwargs):
    seeds = [3, 1, 4, 1]
    renderer = make(kind, batch_size=4, call_kwargs=call_kwargs)
    together = renderer.render(PROMPTS, seeds=seeds)
    renderer.batch_size = 2
    in_pairs = renderer.render(PROMPTS[::-1], seeds=seeds[::-1])[::-1]
    alone = [renderer.render([prompt], seeds=[seed])[0] for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    for one, other in [*zip(together, in_pairs, strict=True), *zip(together, alone, strict=True)]:
        assert largest_difference(one, other) <= 1  # rounding of fp32 at the border of two grey levels


def test_prompt_and_seed_both_make_the_image(make):
    renderer = make()
    a, same, other_seed, other_prompt = renderer.render(
        ["a red mug", "a red mug", "a red mug", "a blue kite"], seeds=[1, 1, 2, 1]
    )
    assert largest_difference(a, same) == 0
    assert largest_difference(a, other_seed) > 20
    assert largest_difference(a, other_prompt) > 1


def test_rendering_leaves_the_global_random_state_alone(make):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make().render(["a red mug"], seeds=[9])
    assert torch.equal(torch.rand(3), expected)


def test_images_are_rgb_in_the_size_that_the_call_asks_for(make):
    (image,) = make(call_kwargs={"height": 48, "width": 16}).render(["a red mug"], seeds=[0])
    assert (image.mode, image.size) == ("RGB", (16, 48))


def test_a_missing_seed_is_an_error(make):
    with pytest.raises(ValueError, match="shorter"):
        render(make(), ["a", "b"], seeds=[0])


# Settings -----------------------------------------------------------------------------------------


def test_the_defaults_are_the_published_protocol():
    # MMPCBench: Stable Diffusion 3.5 large turbo, fp16, 4 steps, guidance 0, max_sequence_length
    # 512.
    assert PAPER_MODEL == "stabilityai/stable-diffusion-3.5-large-turbo"
    assert PAPER_CALL_KWARGS == {"num_inference_steps": 4, "guidance_scale": 0.0, "max_sequence_length": 512}
    assert inspect.signature(DiffusersRenderer).parameters["model"].default == PAPER_MODEL


def test_the_pipeline_is_called_with_the_papers_settings_where_it_has_them(make):
    seen = {}
    for kind in (SD, SD3):
        renderer = make(kind)
        renderer.pipeline = PipelineThat(renderer.pipeline, lambda _, options, kind=kind: seen.update({kind: options}))
        renderer.render(["a red mug"], seeds=[7])
    assert {k: v for k, v in seen[SD3].items() if k != "generator"} == dict(PAPER_CALL_KWARGS)
    assert {k: v for k, v in seen[SD].items() if k != "generator"} == {"num_inference_steps": 4, "guidance_scale": 0.0}
    assert [generator.initial_seed() for generator in seen[SD3]["generator"]] == [7]


def test_call_options_are_laid_over_the_papers_and_null_takes_one_out(make):
    renderer = make(call_kwargs={"num_inference_steps": 2, "guidance_scale": None})
    assert renderer.call_kwargs == {"num_inference_steps": 2, "max_sequence_length": 512}


def test_another_model_under_the_papers_settings_is_said_once_with_the_settings(make, caplog):
    with caplog.at_level(logging.WARNING, logger="grpo_mmpc.rendering.diffusers"):
        make(call_kwargs={"num_inference_steps": 2}).render(PROMPTS, seeds=[0] * 4)
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("grpo_mmpc")]
    assert "guidance_scale=0.0, max_sequence_length=512" in message
    assert "num_inference_steps" not in message


@pytest.mark.parametrize("kind", [SD, SD3])
def test_one_negative_prompt_counts_for_every_image(make, kind):
    with_guidance = {"guidance_scale": 5.0}
    plain = make(kind, call_kwargs=with_guidance).render(PROMPTS, seeds=[0] * 4)
    away = make(kind, call_kwargs={**with_guidance, "negative_prompt": "a blurry photo"}).render(PROMPTS, seeds=[0] * 4)
    assert all(largest_difference(one, other) > 0 for one, other in zip(plain, away, strict=True))


@pytest.mark.parametrize(
    ("kind", "call_kwargs", "message"),
    [
        (
            SD,
            {"max_sequence_length": 77},
            "StableDiffusionPipeline takes no call option 'max_sequence_length'; known: .*width",
        ),
        (SD3, {"num_inference_step": 3}, "did you mean 'num_inference_steps'"),
        (SD3, {"generator": 3}, "must not set generator: the renderer does"),
        (SD3, {"num_images_per_prompt": 2}, "must not set num_images_per_prompt"),
    ],
)
def test_an_option_that_the_pipeline_does_not_take_is_refused_before_rendering(make, kind, call_kwargs, message):
    with pytest.raises(EvaluationError, match=message):
        make(kind, call_kwargs=call_kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"call_kwargs": {"num_inference_step": 3}}, "did you mean 'num_inference_steps'"),
        ({"init_kwargs": {"tokenizer_4": None}}, "takes no init option 'tokenizer_4'; did you mean 'tokenizer_3'"),
        ({"init_kwargs": {"tokenizer_3": None, "dtype": "bfloat16"}, "call_kwargs": {"width": 32}}, None),
    ],
)
def test_options_are_held_to_the_pipeline_without_its_weights(folders, tmp_path, options, message):
    without = shutil.ignore_patterns("*.safetensors")
    model = str(shutil.copytree(folders[SD3], tmp_path / "pipeline", ignore=without))
    if message is None:
        check_renderer("diffusers", {"model": model, **options})
        return
    with pytest.raises(EvaluationError, match=message):
        check_renderer("diffusers", {"model": model, **options})


def test_init_options_reach_from_pretrained(make):
    renderer = make(init_kwargs={"text_encoder_3": None, "tokenizer_3": None, "dtype": "bfloat16"})
    assert renderer.pipeline.text_encoder_3 is None
    assert renderer.pipeline.transformer.dtype == torch.bfloat16
    assert renderer.render(["a red mug"], seeds=[0])[0].size == (32, 32)


def test_the_dtype_is_fp32_on_a_cpu_unless_given(make):
    assert make().pipeline.transformer.dtype == torch.float32
    mixed = make(init_kwargs={"torch_dtype": {"transformer": "bfloat16", "default": "float32"}})
    assert (mixed.pipeline.transformer.dtype, mixed.pipeline.vae.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_kwargs": {"dtype": "float17"}}, "'float17' is not a dtype; write float16"),
        ({"device": "gpu"}, "'gpu' is not a torch device; write cpu"),
        ({"device": "cpu", "init_kwargs": {"device_map": "balanced"}}, "exclude each other"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
    ],
)
def test_an_unfit_option_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(GrpoMmpcError, match=message):
        DiffusersRenderer(model="/no/such/folder", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ScoringError, match="torch sees no CUDA device; use device: cpu"):
        DiffusersRenderer(model="/no/such/folder", device="cuda:1")


# Loading ------------------------------------------------------------------------------------------


def test_without_diffusers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(EvaluationError, match=r"pip install 'grpo-mmpc\[diffusers\]'"):
        DiffusersRenderer()


def test_a_model_that_is_not_there_offline_says_what_was_looked_for_and_what_to_do(tmp_path):
    with pytest.raises(
        EvaluationError, match=r"(?s)'somebody/absent' from the hub and its local cache.*HF_HUB_OFFLINE=1"
    ):
        DiffusersRenderer(model="somebody/absent", device="cpu")
    with pytest.raises(EvaluationError, match=r"(?s)from that folder.*model_index\.json"):
        DiffusersRenderer(model=str(tmp_path), device="cpu")


def test_a_component_with_code_of_its_own_is_refused_without_a_question(tmp_path, monkeypatch):
    index = {"_class_name": "StableDiffusionPipeline", "tokenizer": ["transformers", "CLIPProcessor"]}
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoTokenizer": ["own.Tokenizer", None]}}
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "tokenizer" / "config.json").write_text(json.dumps(own))
    images = {"image_processor_type": "CLIPImageProcessor"}
    (tmp_path / "tokenizer" / "preprocessor_config.json").write_text(json.dumps(images))
    (tmp_path / "tokenizer" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "y")
    with pytest.raises(EvaluationError, match="from that folder: Couldn't instantiate the backend tokenizer"):
        DiffusersRenderer(model=str(tmp_path), device="cpu")
    assert not questions and not (tmp_path / "ran").exists()


def test_a_pipeline_that_draws_from_no_prompt_is_refused(tmp_path):
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    # Also a pipeline that the table of text-to-image tasks does not know, so that DiffusionPipeline
    # loads it.
    DDIMPipeline(unet=unet, scheduler=DDIMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(EvaluationError, match="is a DDIMPipeline, which takes no prompt"):
        DiffusersRenderer(model=str(tmp_path), device="cpu")


def test_a_pipeline_too_large_for_the_device_says_what_to_leave_out(folders, monkeypatch):
    from diffusers import DiffusionPipeline

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(DiffusionPipeline, "to", full)
    with pytest.raises(
        EvaluationError, match=r"does not fit into the memory of cpu: CUDA out of memory.*text_encoder_3: null"
    ):
        DiffusersRenderer(model=folders[SD3], device="cpu")


# Tokens -------------------------------------------------------------------------------------------


def test_tokens_are_counted_by_the_pipelines_own_tokenizer_with_start_and_end(make):
    # The tiny CLIP knows single letters only: a-r-e-d-m-u-g and start and end are 9.
    for kind in (SD, SD3):
        renderer = make(kind)
        assert renderer.token_limit == 77
        assert renderer.prompt_tokens(["a red mug", "", "b" * 75, "b" * 76]) == [9, 2, 77, 78]
        assert renderer.prompt_tokens([]) == []


def test_a_prompt_is_read_up_to_the_limit_and_no_further(make):
    renderer = make(SD)
    at_limit, over, longer = "b" * 75, "b" * 75 + "c", "b" * 75 + "c" + "d" * 20
    assert [count > renderer.token_limit for count in renderer.prompt_tokens([at_limit, over, longer])] == [
        False,
        True,
        True,
    ]
    images = renderer.render([at_limit, over, longer, "b" * 74], seeds=[0] * 4)
    # What follows the 75th letter changes nothing: the end token takes the 77th place.
    assert largest_difference(images[1], images[2]) == 0
    assert largest_difference(images[0], images[3]) > 0


@pytest.mark.parametrize(
    ("options", "limit", "tokens"),
    [
        # T5 reads as far as the call says. A space is a letter to it: 10 and an end.
        ({"call_kwargs": {"max_sequence_length": 60}}, 60, [11]),
        # Left out together with its text encoder, its tokenizer does not count.
        (
            {
                "init_kwargs": {"text_encoder_3": None},
                "call_kwargs": {"max_sequence_length": 80},
            },
            77,
            [9],
        ),
    ],
)
def test_the_limit_is_that_of_the_text_encoder_that_reads_least(make, options, limit, tokens):
    renderer = make(**options)
    assert renderer.token_limit == limit
    assert renderer.prompt_tokens(["a red mug"]) == tokens


def test_cut_prompts_are_counted_and_not_warned_of_one_by_one(make, caplog, tmp_path):
    prompts = {"short": "a mug", "long": "b" * 90, "longer": "b" * 99}
    with caplog.at_level(logging.WARNING):
        result = render_into(tmp_path, make(), prompts, identity="tiny")
    assert (result.num_over_limit, result.token_limit) == (2, 77)
    assert [record.prompt_tokens for record in result.records.values()] == [6, 92, 101]
    assert not [record for record in caplog.records if "truncated because" in record.getMessage()]


# Failures -----------------------------------------------------------------------------------------


def test_the_renderer_counts_tokens(make):
    assert isinstance(make(), CountsTokens)


def test_a_prompt_that_fails_costs_its_own_image_only(make):
    def refuse(prompt, _options):
        if "two green socks" in prompt:
            raise ValueError("no socks today\nand more")

    renderer = make()
    expected = renderer.render(PROMPTS, seeds=[0] * 4)
    renderer.pipeline = PipelineThat(renderer.pipeline, refuse)
    results = render(renderer, PROMPTS, seeds=[0] * 4)
    assert results[1] == Raised(reason="ValueError: no socks today")
    assert all(largest_difference(results[i], expected[i]) <= 1 for i in (0, 2, 3))


def test_a_image_blacked_out_by_the_safety_checker_is_a_failed_render(make):
    def blacked_out(image, device, dtype):
        image[1] = 0
        return image, [False, True]

    renderer = make(SD)
    renderer.pipeline.run_safety_checker = blacked_out
    kept, dropped = render(renderer, ["a red mug", "a kite"], seeds=[0, 0])
    assert isinstance(kept, Image.Image)
    assert dropped == Failure(reason="blacked out by the safety checker")


def test_a_batch_that_does_not_fit_is_halved_for_good(make):
    def memory_for_two(prompt, _options):
        if len(prompt) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    renderer = make(batch_size=8)
    expected = renderer.render(PROMPTS, seeds=[0] * 4)
    renderer.pipeline = PipelineThat(renderer.pipeline, memory_for_two)
    for _ in range(2):
        images = render(renderer, PROMPTS, seeds=[0] * 4)
        assert all(largest_difference(one, other) <= 1 for one, other in zip(images, expected, strict=True))
    assert renderer.batch_size == 2
    assert renderer.pipeline.sizes == [4, 2, 2, 2, 2]  # the first call learns, the second knows


def test_a_single_image_that_does_not_fit_ends_the_run(make):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    renderer = make()
    renderer.pipeline = PipelineThat(renderer.pipeline, no_memory)
    with pytest.raises(EvaluationError, match=r"all of 4 items.*CUDA out of memory\. Not even one image"):
        render(renderer, PROMPTS, seeds=[0] * 4)


# Into a folder ------------------------------------------------------------------------------------


def test_a_second_run_into_the_folder_renders_nothing(make, tmp_path):
    jobs = {prompt: prompt for prompt in PROMPTS}
    renderer = make()
    first = render_into(tmp_path, renderer, jobs, identity="tiny")
    direct = renderer.render(PROMPTS, seeds=[render_seed(prompt) for prompt in PROMPTS])
    for path, image in zip(first.paths.values(), direct, strict=True):
        with Image.open(path) as stored:
            assert largest_difference(stored, image) == 0
    renderer.pipeline = PipelineThat(renderer.pipeline, lambda *_: pytest.fail("rendered again"))
    second = render_into(tmp_path, renderer, jobs, identity="tiny")
    assert second.paths == first.paths
