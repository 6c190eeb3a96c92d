"""The training of a recommender, stopped where the held-out part no longer improves."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.ranking_metrics import user_scores
from grpo_mmpc.recbench.recommenders.recommender import Embeddings, Recommender
from grpo_mmpc.recbench.records import MONITOR, Split, TrainingSettings
from grpo_mmpc.recbench.sampling import NegativeSampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The result of a training."""

    embeddings: Embeddings
    """Those of the best epoch."""
    best_epoch: int
    """From 1; 0 where there was nothing to train."""
    validation: float
    """The monitored score of the best epoch."""
    epochs: int
    """The number of epochs that were run."""


def fit(
    recommender: Recommender,
    split: Split,
    *,
    settings: TrainingSettings,
    seed: int,
    device: str,
    monitor: str = MONITOR,
) -> Fitted:
    """Train with Adam on shuffled mini-batches, a negative for each pair; evaluate every epoch.

    The same seed gives the same embeddings on the same machine: on a CPU bit for bit, on a GPU as
    far as it has deterministic kernels for what a recommender does (PyTorch warns of those it has
    not). A recommender without parameters is only evaluated.

    Args:
        recommender: On ``device``; left as it is after the last epoch.
        split: Its training part is learned, its validation part chooses the epoch.
        settings: How long and how fast.
        seed: Of shuffling, negatives, dropout and the order of ties.
        device: ``cpu`` or ``cuda``.
        monitor: Metric of ``user_scores`` whose mean over users chooses the epoch.

    Raises:
        RecBenchError: The training left the finite numbers.
    """
    targets, cutoff = split.validation, int(monitor.partition("@")[2])
    full_sort = FullSort(
        targets=targets,
        seen=[split.train],
        num_users=split.num_users,
        num_items=split.num_items,
        seed=seed,
        max_rank=cutoff,
    )

    def evaluate(epoch: int) -> tuple[float, Embeddings]:
        recommender.eval()
        embeddings = recommender.embeddings()
        try:
            ranks = full_sort.ranks(embeddings)
        except RecBenchError as error:
            raise RecBenchError(f"epoch {epoch}: {error}") from error
        return float(user_scores(ranks, target_users=targets.users, cutoffs=(cutoff,))[monitor].mean()), embeddings

    parameters = [parameter for parameter in recommender.parameters() if parameter.requires_grad]
    if not parameters:
        value, embeddings = evaluate(0)
        return Fitted(embeddings=_kept(embeddings), best_epoch=0, validation=value, epochs=0)
    generator = torch.Generator(device=device).manual_seed(seed)
    users = torch.from_numpy(split.train.users).to(device)
    items = torch.from_numpy(split.train.items).to(device)
    sampler = NegativeSampler(split.train, num_users=split.num_users, device=device)
    # One who took everything tells nothing apart.
    users, items = (side[sampler.can_sample[users]] for side in (users, items))
    if not len(users):
        raise RecBenchError("every user took every item of the training part: there is nothing to tell apart")
    # One pass over the parameters instead of one for each operation of the update; the same
    # arithmetic.
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
    best: Fitted | None = None
    epoch = 0
    with _deterministic(device):
        for epoch in range(1, settings.max_epochs + 1):
            loss = run_epoch(
                recommender, optimizer, users, items, sampler, generator=generator, batch_size=settings.batch_size
            )
            if not math.isfinite(loss):
                raise RecBenchError(
                    f"epoch {epoch}: the training loss is {loss}; look for NaN or very large numbers in the features, "
                    f"or lower the learning rate ({settings.learning_rate})"
                )
            value, embeddings = evaluate(epoch)
            if best is None or value > best.validation:
                best = Fitted(embeddings=_kept(embeddings), best_epoch=epoch, validation=value, epochs=epoch)
            elif epoch - best.best_epoch >= settings.patience:
                break
    assert best is not None
    return replace(best, epochs=epoch)


def run_epoch(
    recommender: Recommender,
    optimizer: torch.optim.Optimizer,
    users: torch.Tensor,
    items: torch.Tensor,
    sampler: NegativeSampler,
    *,
    generator: torch.Generator,
    batch_size: int,
) -> float:
    """Go through all pairs once, in a random order, and return the mean loss of the batches."""
    recommender.train()
    recommender.start_epoch(generator)
    order = torch.randperm(len(users), generator=generator, device=users.device)
    users, items = users[order], items[order]
    negatives = sampler.sample(users, generator)
    total, batches = torch.zeros((), device=users.device), 0
    for start in range(0, len(users), batch_size):
        batch = slice(start, start + batch_size)
        optimizer.zero_grad(set_to_none=True)
        loss = recommender.loss(users[batch], items[batch], negatives[batch], generator)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach()
        batches += 1
    return float(total) / batches  # one wait for the device in an epoch


def _kept(embeddings: Embeddings) -> Embeddings:
    """Return a copy that further training does not change."""
    return Embeddings(*(table.detach().clone() for table in embeddings))


@contextlib.contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Order sums deterministically on a GPU; on a CPU they are so already."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if torch.device(device).type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
