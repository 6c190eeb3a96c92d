"""Paper mode's VBPR and BPR: the formulas of the MMRec toolbox, written a second time and dense."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.recommenders.vbpr import VBPR
from grpo_mmpc.recbench.recommenders.vbpr_toolbox import ToolboxVBPR
from grpo_mmpc.recbench.records import ItemFeatures, Pairs, Split

USERS, POSITIVES, NEGATIVES = torch.tensor([0, 2, 0]), torch.tensor([1, 3, 2]), torch.tensor([0, 1, 0])
TEXT = np.array([[1, 0, 2], [0, 1, -1], [0, 0, 0], [2, 1, 0]], dtype=np.float32)
IMAGE = np.array([[0.5, -1], [1, 1], [0, 0], [-2, 0.5]], dtype=np.float32)
FEATURES = {
    "both": ItemFeatures(text=TEXT, image=IMAGE),
    "text": ItemFeatures(text=TEXT),
    "none": ItemFeatures(),
}
REG = 0.3


def model_of(features: ItemFeatures) -> ToolboxVBPR:
    none = Pairs(users=np.empty(0, dtype=np.int64), items=np.empty(0, dtype=np.int64))
    split = Split(user_ids=("a", "b", "c"), item_ids=("w", "x", "y", "z"), train=none, validation=none, test=none)
    generator = torch.Generator().manual_seed(0)
    return ToolboxVBPR(split, features, generator=generator, device="cpu", embedding_dim=2, reg=REG)


def all_items(model: ToolboxVBPR, features: ItemFeatures) -> Tensor:
    if model.projection is None:
        return model.items
    raw = torch.cat([torch.from_numpy(values) for values in features.given.values()], dim=1)
    return torch.cat([model.items, functional.linear(raw, model.projection.weight, model.projection.bias)], dim=1)


@pytest.mark.parametrize("name", FEATURES)
def test_loss_gradients_and_scores_are_those_of_the_toolbox(name):
    features = FEATURES[name]
    model, other = model_of(features), model_of(features)
    loss = model.loss(USERS, POSITIVES, NEGATIVES, torch.Generator())
    items = all_items(other, features)
    user, positive, negative = other.users[USERS], items[POSITIVES], items[NEGATIVES]
    margin = (user * positive).sum(dim=1) - (user * negative).sum(dim=1)
    norms = user.norm() + positive.norm() + negative.norm()
    expected = -(1e-10 + torch.sigmoid(margin)).log().mean() + REG * norms / 3
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for (key, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=key)
    users, ranked = model.embeddings()
    torch.testing.assert_close(users @ ranked.T, (other.users @ items.T).detach())


def test_there_are_no_item_biases_and_that_of_the_projection_begins_at_zero():
    model = model_of(FEATURES["both"])
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes == {"users": (3, 4), "items": (4, 2), "projection.weight": (2, 5), "projection.bias": (2,)}
    assert not model.projection.bias.any()


@pytest.mark.parametrize("name", ["vbpr", "bpr"])
def test_paper_mode_builds_the_toolbox_s_and_corrected_mode_the_paper_s(name):
    none = Pairs(users=np.empty(0, dtype=np.int64), items=np.empty(0, dtype=np.int64))
    split = Split(user_ids=("a",), item_ids=("w", "x", "y", "z"), train=none, validation=none, test=none)
    built = {
        mode: RECOMMENDERS[name].build(
            split, FEATURES["text"], mode=mode, generator=torch.Generator(), device="cpu", reg=1.0
        )
        for mode in ("paper", "corrected")
    }
    assert isinstance(built["paper"], ToolboxVBPR) and isinstance(built["corrected"], VBPR)
