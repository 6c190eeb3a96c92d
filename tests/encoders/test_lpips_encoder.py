"""LpipsNetwork against torchmetrics' own function, on one AlexNet of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from grpo_mmpc.encoders.lpips import LpipsNetwork, lpips_scorer
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cpu_compat import ensure_importable

FILE_NAME = "alexnet-owt-7be5be79.pth"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layers of torchvision's AlexNet that LPIPS uses, under their published name."""
    ensure_importable()
    from torchvision.models import alexnet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("alexnet") / FILE_NAME
    features = alexnet(weights=None).features.state_dict()
    torch.save({f"features.{name}": value for name, value in features.items()}, path)
    return path


@pytest.fixture(scope="module")
def network(weights: Path) -> LpipsNetwork:
    return LpipsNetwork(weights=str(weights))


def pictures(number: int, *, seed: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, side, side, 3), dtype=np.uint8)


def torchmetrics_distance(
    weights: Path, first: np.ndarray, second: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> float:
    """Score one pair with the public function, which loads AlexNet at every call."""
    import torchvision
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    def pretrained(**_: object) -> torch.nn.Module:
        model = torchvision.models.AlexNet()
        model.load_state_dict(torch.load(weights), strict=False)
        return model

    monkeypatch.setattr(torchvision.models, "alexnet", pretrained)
    tensors = [torch.from_numpy(values).permute(2, 0, 1)[None] / 255.0 for values in (first, second)]
    return learned_perceptual_image_patch_similarity(*tensors, net_type="alex", normalize=True).item()


def test_distances_equal_torchmetrics_pair_by_pair(
    network: LpipsNetwork, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pictures(3, seed=1), pictures(3, seed=2)
    second[2] = 255 - first[2] // 4
    expected = [torchmetrics_distance(weights, a, b, monkeypatch) for a, b in zip(first, second, strict=True)]
    assert network.distances(predictions=first, references=second) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert len({round(distance, 4) for distance in expected}) == 3


def test_equal_images_have_no_distance_and_the_two_sides_are_interchangeable(network: LpipsNetwork) -> None:
    first, second = pictures(2, seed=3), pictures(2, seed=4)
    assert network.distances(predictions=first, references=first) == [0.0, 0.0]
    assert network.distances(predictions=first, references=second) == pytest.approx(
        network.distances(predictions=second, references=first), abs=1e-6
    )


def test_more_images_than_a_batch_keep_their_order(network: LpipsNetwork) -> None:
    first, second = pictures(35, seed=5, side=32), pictures(35, seed=6, side=32)
    alone = [network.distances(predictions=first[i : i + 1], references=second[i : i + 1])[0] for i in (0, 31, 32, 34)]
    together = network.distances(predictions=first, references=second)
    assert [together[i] for i in (0, 31, 32, 34)] == pytest.approx(alone, abs=1e-6)


def test_nothing_in_nothing_out_and_unfit_shapes_are_refused(network: LpipsNetwork) -> None:
    assert network.distances(predictions=pictures(0, seed=0), references=pictures(0, seed=0)) == []
    with pytest.raises(ValueError, match="two equal shapes"):
        network.distances(predictions=pictures(1, seed=0), references=pictures(2, seed=0))
    with pytest.raises(ValueError, match="at least 32 px"):
        network.distances(predictions=pictures(1, seed=0, side=31), references=pictures(1, seed=0, side=31))


def test_weights_are_found_in_a_folder_and_loaded_once_per_process(weights: Path) -> None:
    folder = str(weights.parent)
    assert lpips_scorer(weights=folder, device="cpu") is lpips_scorer(weights=folder, device="cpu")


def test_weights_are_found_in_torchs_cache(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / FILE_NAME).symlink_to(weights)
    first, second = pictures(1, seed=1), pictures(1, seed=2)
    assert LpipsNetwork().distances(predictions=first, references=second)[0] > 0


def test_offline_nothing_is_downloaded_and_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("tried the network"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ScoringError) as raised:
        lpips_scorer(device="cpu")
    message = str(raised.value)
    assert str(tmp_path / "checkpoints" / FILE_NAME) in message
    assert "HF_HUB_OFFLINE forbids downloads; download https://" in message


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(ScoringError, match=r"no route to host.*give its path as weights"):
        lpips_scorer(device="cpu")


def test_absent_broken_and_foreign_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match=rf"{FILE_NAME} does not exist"):
        LpipsNetwork(weights=str(tmp_path))
    broken, foreign, pickled = tmp_path / "broken.pth", tmp_path / "foreign.pth", tmp_path / "pickled.pth"
    broken.write_bytes(b"<html>not found</html>")
    torch.save({"layer.weight": torch.zeros(2)}, foreign)
    torch.save({"layer.weight": Path("code could hide here")}, pickled)
    with pytest.raises(ScoringError, match=r"broken\.pth cannot be read as weights"):
        LpipsNetwork(weights=str(broken))
    with pytest.raises(ScoringError, match=r"foreign\.pth does not fit AlexNet"):
        LpipsNetwork(weights=str(foreign))
    with pytest.raises(ScoringError, match=r"pickled\.pth cannot be read as weights"):
        LpipsNetwork(weights=str(pickled))
