"""A model of another kind as an encoder costs its own metrics, and says why; nothing else."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.encoders.bertscore import bertscore_encoder
from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.encoders.sentence import sentence_encoder
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.evaluation.scorers import _load_encoders
from grpo_mmpc.evaluation.suite import scores_by
from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc_rewards.length import image_prompt_limit

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT, VISION = SMALL | {"vocab_size": 50}, SMALL | {"image_size": 32, "patch_size": 16}


def siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)).save_pretrained(folder)
    processor(folder, "SiglipImageProcessor")


def siglip2(folder: Path) -> None:
    from transformers import Siglip2Config, Siglip2Model

    vision = SMALL | {"num_patches": 16, "patch_size": 16}
    Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=vision)).save_pretrained(folder)
    processor(folder, "Siglip2ImageProcessor")


def blip(folder: Path) -> None:
    from transformers import BlipConfig, BlipModel

    BlipModel(BlipConfig(text_config=TEXT | {"encoder_hidden_size": 16}, vision_config=VISION)).save_pretrained(folder)
    processor(folder, "BlipImageProcessor")


def clip_vision(folder: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(folder)
    processor(folder, "CLIPImageProcessor")


def dinov2_alone(folder: Path) -> None:
    """Weights without the processor's settings."""
    from transformers import Dinov2Config, Dinov2Model

    Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    ).save_pretrained(folder)


def bert(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(**TEXT)).save_pretrained(folder)
    tokenizer(folder)


def unreadable(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "clip"')


def processor(folder: Path, kind: str) -> None:
    settings = {"image_processor_type": kind, "size": {"height": 32, "width": 32}, "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    tokenizer(folder)


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "red": 2, "mug": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    ensure_importable()
    made: dict[str, Path] = {}

    def make(build: Callable[[Path], None]) -> Path:
        if build.__name__ not in made:
            made[build.__name__] = tmp_path_factory.mktemp(build.__name__)
            build(made[build.__name__])
        return made[build.__name__]

    return make


@pytest.mark.parametrize(
    ("encoder", "build", "reason"),
    [
        ("clip", siglip, "it is a siglip model, and this encoder reads clip models"),
        ("clip", siglip2, "it is a siglip2 model, and this encoder reads clip models"),
        ("clip", blip, "it is a blip model, and this encoder reads clip models"),
        ("clip", clip_vision, "it is a clip_vision_model model, and this encoder reads clip models"),
        ("clip", dinov2_alone, "it is a dinov2 model, and this encoder reads clip models"),
        ("clip", bert, "it is a bert model, and this encoder reads clip models"),
        ("clip", unreadable, "config.json"),
        ("dinov2", siglip, "it is a siglip model, and this encoder reads dinov2 models"),
        ("dinov2", dinov2_alone, "preprocessor_config.json"),
        ("dinov2", bert, "it is a bert model, and this encoder reads dinov2 models"),
        ("sentence", siglip, ""),
        ("sentence", clip_vision, "it is a clip_vision_model model, which does not read text alone"),
        ("sentence", dinov2_alone, "dinov2"),
        ("bertscore", blip, ""),
        ("bertscore", dinov2_alone, "dinov2"),
    ],
)
def test_the_metrics_of_this_encoder_are_unscored_and_the_reason_is_given(folder_of, tmp_path, encoder, build, reason):
    options = {"model": str(folder_of(build))}
    assert scores_by(options, download=True)  # the suite knows the model by its content
    loaded, missing = _load_encoders({encoder: options})
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    picture = [str(tmp_path / "a.png")]
    inputs = MetricInputs(
        task="text_to_image",
        predictions=["red mug"],
        references=["mug"],
        real_images=picture,
        rendered_images=picture,
        read_image=open_image,
        **{"dino" if encoder == "dinov2" else encoder: loaded.get(encoder)},
    )
    metric = {"clip": "clip_i", "dinov2": "dino", "sentence": "embedding_cosine", "bertscore": "bertscore_f1"}[encoder]
    metrics = [one for name, one in METRICS.items() if name.startswith(metric)]
    assert metrics and all(math.isnan(score) for one in metrics for score in one.score(inputs))
    said = " ".join([*missing.values(), *inputs.failures.values()])
    assert said and reason in said


def model_of_its_own(folder: Path) -> None:
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()")
    names = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": names}))


CODE = "contains custom code .* Code of a model that scores is not run; give one whose class Transformers has"
TOKENIZER = "cannot load .* from that folder: Couldn't instantiate the backend tokenizer"  # its own left aside


@pytest.mark.parametrize(
    ("load", "build", "reason"),
    [
        (lambda folder: sentence_encoder(model=folder), model_of_its_own, CODE),
        (lambda folder: bertscore_encoder(model=folder, num_layers=1), model_of_its_own, CODE),
        (lambda folder: image_prompt_limit(tokenizer=folder)(predictions=["red mug"]), model_of_its_own, TOKENIZER),
    ],
    ids=["sentence", "bertscore", "length"],
)
def test_a_folder_with_code_of_its_own_is_refused_without_a_question(folder_of, monkeypatch, load, build, reason):
    folder, questions = folder_of(build), []
    monkeypatch.setattr("builtins.input", lambda *question: questions.append(question) or "y")
    with pytest.raises(ScoringError, match=reason):
        load(str(folder))
    assert not questions and not (folder / "ran").exists()
