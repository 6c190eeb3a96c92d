"""VitEncoder against plain forward passes of a tiny random model, with images prepared by hand."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grpo_mmpc.encoders.store import EncodingStore
from grpo_mmpc.encoders.vit import VitEncoder, vit_encoder
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cpu_compat import ensure_importable

SIZE_PX = 32
RESIZED_PX = 35  # the shorter side before the crop: floor(32 / 0.9)


def random_vit() -> torch.nn.Module:
    ensure_importable()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIZE_PX, embed_dim=24, depth=2, num_heads=2, num_classes=5
    ).eval()
    for parameter in model.parameters():  # the default initialisation makes all vectors alike
        parameter.data = torch.randn_like(parameter) * 0.2
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as timm publishes them: mean and deviation 0.5, bicubic, 90 % centre crop."""
    model = random_vit()
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp("vit")
    save_for_hf(model, str(folder), safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {
        "input_size": [3, SIZE_PX, SIZE_PX],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Noise twice as wide as high, so that cropping and squashing see different things."""
    paths = []
    for seed in range(3):
        path = tmp_path / f"{seed}.png"
        pixels = np.random.default_rng(seed).integers(0, 256, size=(8, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((140, 70), Image.Resampling.NEAREST).save(path)
        paths.append(str(path))
    return paths


def class_token(pixels: np.ndarray, *, mean: list[float], std: list[float]) -> torch.Tensor:
    """First token after the last normalisation, of pixels [H, W, 3] in 0..255."""
    values = (torch.tensor(pixels, dtype=torch.float32) / 255 - torch.tensor(mean)) / torch.tensor(std)
    with torch.no_grad():
        return random_vit().forward_features(values.permute(2, 0, 1)[None])[0, 0]


def own_preprocessing(path: str) -> torch.Tensor:
    """Resize to 70 x 35, crop 32 x 32 at left (70 - 32) / 2 = 19, top round((35 - 32) / 2) = 2."""
    with Image.open(path) as image:
        pixels = np.asarray(image.resize((2 * RESIZED_PX, RESIZED_PX), Image.Resampling.BICUBIC))
    return class_token(pixels[2:34, 19:51], mean=[0.5] * 3, std=[0.5] * 3)


def squashed(path: str) -> torch.Tensor:
    with Image.open(path) as image:
        pixels = np.asarray(image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR))
    return class_token(pixels, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def test_vectors_are_class_tokens_after_the_checkpoint_s_own_preprocessing(folder: Path, images: list[str]) -> None:
    found = VitEncoder(model=str(folder)).embed_images(images)
    assert found.shape == (3, 24)
    assert torch.allclose(found, torch.stack([own_preprocessing(path) for path in images]), atol=1e-4)


def test_the_squashed_images_with_imagenet_s_mean_of_mmpcbench_are_asked_for_by_name(
    folder: Path, images: list[str]
) -> None:
    expected = torch.stack([squashed(path) for path in images])
    found = VitEncoder(model=str(folder), preprocessing="squashed").embed_images(images)
    assert torch.allclose(found, expected, atol=1e-4)
    default = VitEncoder(model=str(folder)).embed_images(images)
    assert (default - expected).norm(dim=1).min() > 0.1  # of vectors about 1.6 long


def test_unreadable_images_give_rows_of_nan(folder: Path, images: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(images[0]).read_bytes()[:60])
    found = VitEncoder(model=str(folder)).embed_images([str(broken), images[0], str(tmp_path / "none.png")])
    assert found.isnan().all(dim=1).tolist() == [True, False, True]
    assert not found[1].isnan().any()
    assert VitEncoder(model=str(folder)).embed_images([]).shape == (0, 24)


def test_vectors_come_back_from_disk_but_not_those_of_the_other_preprocessing(
    folder: Path, images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EncodingStore(path=tmp_path / "encodings.sqlite", max_bytes=2**20)
    first = VitEncoder(model=str(folder), store=store).embed_images(images)
    again = VitEncoder(model=str(folder), store=store)
    other = VitEncoder(model=str(folder), preprocessing="squashed", store=store)
    monkeypatch.setattr(again, "_model", None)  # nothing is left to encode
    assert torch.equal(again.embed_images(images), first)
    assert not torch.allclose(other.embed_images(images), first, atol=1e-2)


def test_half_precision_comes_close(folder: Path, images: list[str]) -> None:
    half = VitEncoder(model=str(folder), dtype="bfloat16").embed_images(images)
    full = VitEncoder(model=str(folder)).embed_images(images)
    assert torch.cosine_similarity(half, full).min() > 0.99


def test_a_configuration_is_loaded_once_per_process(folder: Path) -> None:
    assert vit_encoder(model=str(folder), device="cpu") is vit_encoder(model=str(folder), device="cpu")
    squashing = vit_encoder(model=str(folder), preprocessing="squashed", device="cpu")
    assert squashing is not vit_encoder(model=str(folder), device="cpu")


@pytest.mark.parametrize("content", ["nothing", "another model", "no weights", "too few weights"])
def test_a_folder_without_a_timm_checkpoint_is_refused(content: str, folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    if content == "another model":
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    elif content != "nothing":
        (tmp_path / "config.json").write_text(json.dumps(config))
    if content == "too few weights":  # would stay random
        weights = random_vit().state_dict()
        del weights["blocks.0.attn.qkv.weight"]
        torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ScoringError, match=r"(?s)ViT: cannot load .* from that folder: .* Give a folder that holds the"
    ):
        VitEncoder(model=str(tmp_path))


def test_an_absent_checkpoint_says_what_to_give(folder: Path) -> None:
    for name in ("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", "vit_base_patch16_224.augreg2_in21k_ft_in1k"):
        with pytest.raises(ScoringError, match=rf"(?s)ViT: cannot load '{name}' from the hub.*Give a folder"):
            VitEncoder(model=name)
    with pytest.raises(ScoringError, match="cannot load 'vit_of_no_size'"):
        VitEncoder(model="vit_of_no_size")


def test_a_missing_timm_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ScoringError, match=r"needs the package timm .*pip install 'grpo-mmpc\[timm\]', or .*nano:clip"):
        VitEncoder(model=str(folder))
