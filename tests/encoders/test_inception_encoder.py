"""InceptionEncoder against torch-fidelity's network called directly, on random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from grpo_mmpc.encoders.inception import InceptionEncoder, inception_encoder
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.metrics.image import OpenedImage
from grpo_mmpc.utils.cpu_compat import ensure_importable

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ensure_importable()
    from torch_fidelity import feature_extractor_inceptionv3 as module

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / FILE_NAME
    with pytest.MonkeyPatch.context() as patch:  # its constructor insists on loading something
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, _: None)
        network = module.FeatureExtractorInceptionV3("random", ["2048"])
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):  # keeps the signal alive through 48 layers
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def encoder(weights: Path) -> InceptionEncoder:
    return InceptionEncoder(weights=str(weights))


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = []
    for i, size in enumerate([(80, 40), (299, 299)]):
        pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    return paths


def plain_features(weights: Path, square: Image.Image) -> np.ndarray:
    from torch_fidelity import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("plain", ["2048"], feature_extractor_weights_path=str(weights))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return network(pixels)[0][0].numpy()


def test_features_equal_torch_fidelity_on_letterboxed_images(
    encoder: InceptionEncoder, weights: Path, images: list[str]
) -> None:
    found = encoder.features(images)
    assert found.shape == (2, 2048)
    with Image.open(images[0]) as opened:
        square = ImageOps.pad(opened.convert("RGB"), (299, 299), method=Image.Resampling.LANCZOS, color="white")
    expected = plain_features(weights, square)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_an_image_of_the_networks_size_is_not_touched(
    encoder: InceptionEncoder, weights: Path, images: list[str]
) -> None:
    with Image.open(images[1]) as opened:
        expected = plain_features(weights, opened.convert("RGB"))
    np.testing.assert_allclose(encoder.features([images[1]])[0], expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_images_are_encoded_once_and_known_by_their_file(
    weights: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = InceptionEncoder(weights=str(weights))
    with Image.open(images[0]) as opened:
        first = encoder.features([OpenedImage(images[0], opened.convert("RGB"))] * 3)
    monkeypatch.setattr(encoder, "_network", None)  # nothing is left to encode
    np.testing.assert_array_equal(encoder.features([images[0]]), first[:1])


def test_an_unreadable_image_is_a_row_of_nan(encoder: InceptionEncoder, images: list[str], tmp_path: Path) -> None:
    rows = encoder.features([images[0], str(tmp_path / "none.png")])
    assert not np.isnan(rows[0]).any()
    assert np.isnan(rows[1]).all()
    assert encoder.features([]).shape == (0, 2048)


def test_a_configuration_is_loaded_once_per_process(weights: Path) -> None:
    folder = str(weights.parent)
    assert inception_encoder(weights=folder, device="cpu") is inception_encoder(weights=folder, device="cpu")


def test_offline_nothing_is_downloaded_and_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("tried the network"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ScoringError, match=rf"{FILE_NAME} does not exist, and HF_HUB_OFFLINE forbids downloads"):
        inception_encoder(device="cpu")


def test_foreign_weights_are_named(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pth"
    torch.save({"layer.weight": torch.zeros(2)}, foreign)
    with pytest.raises(ScoringError, match=r"foreign\.pth does not fit torch-fidelity's InceptionV3"):
        InceptionEncoder(weights=str(foreign))
