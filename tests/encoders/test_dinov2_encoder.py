"""DinoEncoder against a plain Dinov2Model forward pass, with a tiny random model."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from grpo_mmpc.encoders.dinov2 import DinoEncoder, dinov2_encoder
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.metrics.image import OpenedImage
from grpo_mmpc.utils.cpu_compat import ensure_importable

SIZE_PX = 28


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of 28-pixel images with the published processor's settings, scaled down."""
    ensure_importable()
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE_PX, patch_size=14)
    )
    for parameter in model.parameters():  # the default initialisation makes all embeddings alike
        parameter.data = torch.randn_like(parameter) * 0.3
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": SIZE_PX, "width": SIZE_PX},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = []
    for i, colour in enumerate(["red", "blue", "green"]):
        path = tmp_path / f"{i}.png"
        image = Image.new("RGB", (60, 30), "white")
        image.paste(colour, (10 * i, 2, 10 * i + 25, 25))
        image.save(path)
        paths.append(str(path))
    return paths


def plain_class_token(folder: Path, path: str) -> torch.Tensor:
    """Letterboxed by hand, normalised by hand, through the full model alone."""
    from transformers import Dinov2Model

    with Image.open(path) as opened:
        square = ImageOps.pad(opened.convert("RGB"), (SIZE_PX, SIZE_PX), method=Image.Resampling.LANCZOS, color="white")
    values = torch.tensor(list(square.tobytes()), dtype=torch.float32).reshape(SIZE_PX, SIZE_PX, 3) / 255
    values = (values - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        return Dinov2Model.from_pretrained(folder).eval()(values.permute(2, 0, 1)[None]).last_hidden_state[0, 0]


def test_scores_are_cosines_of_class_tokens_of_letterboxed_images(folder: Path, images: list[str]) -> None:
    tokens = [plain_class_token(folder, path) for path in images]
    expected = [torch.cosine_similarity(tokens[a], tokens[b], dim=0).item() for a, b in [(0, 1), (1, 2), (2, 2)]]
    encoder = DinoEncoder(model=str(folder))
    found = encoder.image_image(
        image_paths=[images[0], images[1], images[2]], other_paths=[images[1], *[images[2]] * 2]
    )
    assert found == pytest.approx(expected, abs=1e-5)
    assert expected[0] < 0.999


def test_an_opened_image_scores_like_its_file_and_is_encoded_once(
    folder: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = DinoEncoder(model=str(folder))
    with Image.open(images[0]) as opened:
        shared = OpenedImage(images[0], opened.convert("RGB"))
    from_pixels = encoder.image_image(image_paths=[shared], other_paths=[images[1]])
    monkeypatch.setattr(encoder, "_model", None)  # nothing is left to encode
    assert encoder.image_image(image_paths=[images[0]], other_paths=[images[1]]) == from_pixels


def test_unreadable_images_are_unscored(folder: Path, images: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(images[0]).read_bytes()[:60])
    scores = DinoEncoder(model=str(folder)).image_image(
        image_paths=[str(broken), images[0], images[0]], other_paths=[images[0], str(tmp_path / "none.png"), images[0]]
    )
    assert [math.isnan(score) for score in scores] == [True, True, False]


def test_half_precision_comes_close(folder: Path, images: list[str]) -> None:
    pairs = {"image_paths": images[:2], "other_paths": images[1:]}
    half = DinoEncoder(model=str(folder), dtype="bfloat16").image_image(**pairs)
    assert half == pytest.approx(DinoEncoder(model=str(folder)).image_image(**pairs), abs=0.05)


def test_a_configuration_is_loaded_once_per_process(folder: Path) -> None:
    assert dinov2_encoder(model=str(folder), device="cpu") is dinov2_encoder(model=str(folder), device="cpu")


def test_an_absent_model_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match=r"DINOv2: cannot load .*empty.* from that folder"):
        (tmp_path / "empty").mkdir()
        dinov2_encoder(model=str(tmp_path / "empty"), device="cpu")
    with pytest.raises(ScoringError, match=r"(?s)facebook/dinov2-base.*HF_HUB_OFFLINE"):
        dinov2_encoder(device="cpu")
