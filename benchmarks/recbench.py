"""Training and ranking of recommenders beside a plain implementation, on one thread.

    python benchmarks/recbench.py            # both sizes; about ten minutes
    python benchmarks/recbench.py --quick    # smaller sizes; within a minute

Sizes: small is 1,000 users x 3,000 items x 8,000 interactions, medium 20,000 x 12,000 x 200,000,
with text features of 384 and image features of 768 numbers; users take items that are close to a
taste and popular, and features show what an item is.

``NAME_SIZE`` is the seconds of one training epoch and one full-sort evaluation (16 metrics of one
split part), the unit that training with early stopping repeats; ``NAME_SIZE_epoch_seconds`` and
``NAME_SIZE_eval_seconds`` are its parts, with ``_baseline`` those of the other side. What is
prepared once (graphs, indices of seen items) is in ``NAME_SIZE_build_seconds``. The straightforward
side has the same parameters, optimiser, batches and loss, computed the obvious way: all items
projected and all nodes propagated in every batch, a dense neighbour graph, negatives drawn pair by
pair, every user ranked in a Python loop. It does only a share of an epoch and of the users at
medium size (``--baseline-batches``, ``--baseline-users``), and its time is scaled. The sides
alternate; figures are medians. Evaluation is faster the worse the model is, since hopeless users
are left early; models here are warmed up for ``--warm-up`` epochs, and ``NAME_SIZE_ranked_share``
says how many targets are among the first 50 then.

Checks: both evaluators give the same metrics for the same embeddings. Both trainings, with equal
hyper-parameters and as many epochs (25, BM3 60), reach the same test Recall@20, within 0.02 in the
mean over ``--seeds`` (5) seeds of 1,000 users x 400 items x 14,000 interactions (they draw other
negatives and dropout, so they cannot be equal), and more than an untrained model by 0.02.
``peak_rss_mb`` is of fresh processes, imports and data included.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and PyTorch start their threads

import argparse
import json
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.ranking_metrics import user_scores
from grpo_mmpc.recbench.recommenders.recommender import Embeddings, Recommender
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import ItemFeatures, Pairs, Split
from grpo_mmpc.recbench.sampling import NegativeSampler
from grpo_mmpc.recbench.training import run_epoch

torch.set_num_threads(1)

NAMES = ("vbpr", "bm3", "freedom")
BATCH = 2048
CUTOFFS = (5, 10, 20, 50)
ACCURACY_BOUND = 0.02
ACCURACY_EPOCHS = {"vbpr": 25, "bm3": 60, "freedom": 25}
ACCURACY_RATE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A world's size; every user has the same number of interactions, the last two held out."""

    users: int
    items: int
    per_user: int


SIZES = {
    "small": Size(users=1000, items=3000, per_user=8),
    "medium": Size(users=20_000, items=12_000, per_user=10),
}
QUICK_SIZES = {"small": Size(users=500, items=1000, per_user=8), "medium": Size(users=2000, items=3000, per_user=10)}
ACCURACY_SIZE = Size(users=1000, items=400, per_user=14)
"""Denser than the small size, where IDs are too sparse for BM3 to learn in any number of epochs."""


def make_world(size: Size, *, seed: int) -> tuple[Split, ItemFeatures]:
    """Users with tastes, items of unequal popularity, and features that show what an item is."""
    rng = np.random.default_rng(seed)

    def directions(count: int, dim: int) -> Any:
        vectors = rng.normal(size=(count, dim)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    kinds, tastes = directions(size.items, 16), directions(size.users, 16)
    popularity = rng.normal(scale=0.7, size=size.items).astype(np.float32)
    taken = np.empty((size.users, size.per_user), dtype=np.int64)
    for start in range(0, size.users, 250):
        liking = 8 * tastes[start : start + 250] @ kinds.T + popularity
        liking += rng.gumbel(size=liking.shape)  # the largest are a draw by softmax, without replacement
        taken[start : start + 250] = np.argpartition(-liking, size.per_user, axis=1)[:, : size.per_user]
    taken = rng.permuted(taken, axis=1)

    def part(start: int, end: int) -> Pairs:
        columns = taken[:, start:end]
        return Pairs(users=np.repeat(np.arange(size.users), columns.shape[1]), items=columns.reshape(-1))

    def features(dim: int) -> Any:
        vectors = kinds @ directions(16, dim) + 0.7 * directions(size.items, dim)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    split = Split(
        user_ids=tuple(map(str, range(size.users))),
        item_ids=tuple(map(str, range(size.items))),
        train=part(0, size.per_user - 2),
        validation=part(size.per_user - 2, size.per_user - 1),
        test=part(size.per_user - 1, size.per_user),
    )
    return split, ItemFeatures(text=features(384), image=features(768))


def built(name: str, split: Split, features: ItemFeatures, *, seed: int) -> Any:
    """A recommender with its default hyper-parameters."""
    spec = RECOMMENDERS[name]
    generator = torch.Generator().manual_seed(seed)
    return spec.build(split, features, generator=generator, device="cpu", **spec.defaults)


class Ours:
    """Our training loop and our ranking."""

    def __init__(self, name: str, split: Split, features: ItemFeatures, *, seed: int, rate: float = 1e-3) -> None:
        self.model: Recommender = built(name, split, features, seed=seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.sampler = NegativeSampler(split.train, num_users=split.num_users)
        self.users, self.items = torch.from_numpy(split.train.users), torch.from_numpy(split.train.items)
        self.targets = split.test
        self.full_sort = full_sort(split)

    def epoch(self) -> None:
        """All training pairs once."""
        run_epoch(
            *(self.model, self.optimizer, self.users, self.items, self.sampler),
            generator=self.generator,
            batch_size=BATCH,
        )

    def evaluate(self) -> dict[str, float]:
        """Means over users of 16 metrics."""
        self.model.eval()
        scores = user_scores(self.full_sort.ranks(self.model.embeddings()), target_users=self.targets.users)
        return {name: float(values.mean()) for name, values in scores.items()}


def full_sort(split: Split) -> FullSort:
    """Ranks the test part."""
    return FullSort(
        targets=split.test,
        seen=[split.train, split.validation],
        num_users=split.num_users,
        num_items=split.num_items,
        seed=0,
    )


class Straightforward:
    """The same model trained and ranked the obvious way."""

    def __init__(self, name: str, split: Split, features: ItemFeatures, *, seed: int, rate: float = 1e-3) -> None:
        self.model = built(name, split, features, seed=seed)  # for its initial parameters; its loss is not used
        self.loss, self.embeddings = STRAIGHTFORWARD[name](self.model, split, features)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
        self.rng = random.Random(seed)
        torch.manual_seed(seed)  # of functional.dropout
        self.num_users = split.num_users
        self.candidates = sorted(set(split.train.items.tolist()))
        self.pairs = list(zip(split.train.users.tolist(), split.train.items.tolist(), strict=True))
        self.taken, self.seen, self.targets = defaultdict(set), defaultdict(list), defaultdict(set)
        for user, item in self.pairs:
            self.taken[user].add(item)
        for part in (split.train, split.validation):
            for user, item in zip(part.users.tolist(), part.items.tolist(), strict=True):
                self.seen[user].append(item)
        for user, item in zip(split.test.users.tolist(), split.test.items.tolist(), strict=True):
            self.targets[user].add(item)

    def epoch(self, *, max_batches: int | None = None) -> float:
        """The share of the epoch that was done."""
        self.model.train()
        self.rng.shuffle(self.pairs)
        pairs = self.pairs[: max_batches * BATCH] if max_batches else self.pairs
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            negatives = []
            for user, _ in batch:
                item = self.rng.choice(self.candidates)
                while item in self.taken[user]:
                    item = self.rng.choice(self.candidates)
                negatives.append(item)
            users, positives = (torch.tensor(part) for part in zip(*batch, strict=True))
            self.optimizer.zero_grad()
            self.loss(users, positives, torch.tensor(negatives)).backward()
            self.optimizer.step()
        return len(pairs) / len(self.pairs)

    def evaluate(self, *, max_users: int | None = None) -> dict[str, float]:
        """Means over the first users."""
        with torch.no_grad():
            return rank_in_a_loop(self.embeddings(), self.seen, self.targets, users=range(max_users or self.num_users))


def rank_in_a_loop(embeddings: Embeddings, seen: Any, targets: Any, *, users: range) -> dict[str, float]:
    """Rank user by user: score all items, mask, take the best 50, look for the targets."""
    totals: dict[str, float] = defaultdict(float)
    for user in users:
        scores = embeddings.items @ embeddings.users[user]
        scores[seen[user]] = -math.inf
        ranking = scores.topk(max(CUTOFFS)).indices.tolist()
        wanted = targets[user]
        for k in CUTOFFS:
            hits, gain, precisions = 0, 0.0, 0.0
            for place, item in enumerate(ranking[:k], start=1):
                if item in wanted:
                    hits += 1
                    gain += 1 / math.log2(place + 1)
                    precisions += hits / place
            reachable = min(k, len(wanted))
            totals[f"recall@{k}"] += hits / len(wanted)
            totals[f"ndcg@{k}"] += gain / sum(1 / math.log2(place + 1) for place in range(1, reachable + 1))
            totals[f"precision@{k}"] += hits / k
            totals[f"map@{k}"] += precisions / reachable
    return {name: total / len(users) for name, total in totals.items()}


Sides = tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Callable[[], Embeddings]]


def straightforward_vbpr(model: Any, split: Split, features: ItemFeatures) -> Sides:
    """All items projected in every batch."""
    joined = torch.cat([torch.from_numpy(features.text), torch.from_numpy(features.image)], dim=1)
    dim = model.items.shape[1] - 1

    def tables() -> tuple[Tensor, Tensor]:
        projected = joined @ model.projection.T
        bias = model.items[:, dim:] + projected[:, dim:]
        ones = torch.ones(split.num_users, 1)
        return torch.cat([model.users, ones], dim=1), torch.cat([model.items[:, :dim], projected[:, :dim], bias], dim=1)

    def loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        of_users, of_items = tables()
        user, liked, other = of_users[users], of_items[positives], of_items[negatives]
        margin = (user * liked).sum(dim=1) - (user * other).sum(dim=1)
        squares = sum(
            table.pow(2).sum() for table in (model.users[users], model.items[positives], model.items[negatives])
        )
        return -functional.logsigmoid(margin).mean() + model.reg * (squares + model.projection.pow(2).sum()) / len(
            users
        )

    return loss, lambda: Embeddings(*tables())


def coordinates(matrix: Any) -> Tensor:
    """A sparse matrix as PyTorch's usual one."""
    entries = matrix.tocoo()
    positions = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    values = torch.from_numpy(entries.data)
    return torch.sparse_coo_tensor(positions, values, entries.shape, check_invariants=False).coalesce()


def propagated(graph: Tensor, nodes: Tensor, layers: int) -> Tensor:
    """Mean over layers, all nodes."""
    found = [nodes]
    for _ in range(layers):
        found.append(torch.sparse.mm(graph, found[-1]))
    return torch.stack(found).mean(dim=0)


def straightforward_bm3(model: Any, split: Split, features: ItemFeatures) -> Sides:
    """Propagate all nodes, project and predict all items, drop out all tables in every batch."""
    graph, dropout = coordinates(model.graph.matrix), model.dropout
    raw = {"text": torch.from_numpy(features.text), "image": torch.from_numpy(features.image)}

    def final() -> tuple[Tensor, Tensor]:
        mean = propagated(graph, model.nodes, model.layers)
        return mean[: split.num_users], mean[split.num_users :] + model.nodes[split.num_users :]

    def target(vectors: Tensor) -> Tensor:
        return functional.dropout(vectors.detach(), dropout)

    def cosine(predicted: Tensor, wanted: Tensor) -> Tensor:
        return 1 - functional.cosine_similarity(predicted, wanted, dim=1).mean()

    def loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        user, item = final()
        user_target, item_target = target(user), target(item)
        total = cosine(model.predictor(user)[users], item_target[positives])
        total = total + cosine(model.predictor(item)[positives], user_target[users])
        for name, values in raw.items():
            vectors = model.modalities[name].projection(values)
            predicted, dropped = model.predictor(vectors)[positives], target(vectors)[positives]
            total = total + model.cl_weight * (cosine(predicted, item_target[positives]) + cosine(predicted, dropped))
        return total + model.reg * (user.norm() + item.norm()) / split.num_items

    return loss, lambda: Embeddings(*(model.predictor(table) for table in final()))


def straightforward_freedom(model: Any, split: Split, features: ItemFeatures) -> Sides:
    """A dense neighbour graph; all nodes propagated and all items projected in every batch."""
    similar = torch.from_numpy(model.item_graph.matrix.toarray())  # [I, I]
    whole = coordinates(model.graph.matrix)
    raw = {"text": torch.from_numpy(features.text), "image": torch.from_numpy(features.image)}
    generator, seen = torch.Generator().manual_seed(0), {"pairs": len(split.train)}
    thinned = {"graph": whole}

    def final(graph: Tensor) -> tuple[Tensor, Tensor]:
        mean, alike = propagated(graph, model.nodes, model.user_item_layers), model.nodes[split.num_users :]
        for _ in range(model.item_layers):
            alike = similar @ alike
        return mean[: split.num_users], mean[split.num_users :] + alike

    def loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        if seen["pairs"] >= len(split.train):  # a new epoch
            model.start_epoch(generator)
            thinned["graph"], seen["pairs"] = coordinates(model.thinned.matrix), 0
        seen["pairs"] += len(users)
        user, item = final(thinned["graph"])

        def ranking(items: Tensor) -> Tensor:
            margin = (user[users] * items[positives]).sum(dim=1) - (user[users] * items[negatives]).sum(dim=1)
            return -functional.logsigmoid(margin).mean()

        total = ranking(item)
        for name, values in raw.items():
            total = total + model.reg * ranking(model.modalities[name].projection(values))
        return total

    return loss, lambda: Embeddings(*final(whole))


STRAIGHTFORWARD: dict[str, Callable[[Any, Split, ItemFeatures], Sides]] = {
    "vbpr": straightforward_vbpr,
    "bm3": straightforward_bm3,
    "freedom": straightforward_freedom,
}


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it takes, and what it returns."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare(
    name: str, world: tuple[Split, ItemFeatures], *, arguments: argparse.Namespace, share: bool
) -> dict[str, float]:
    """Medians of seconds, ours and the other side's, epochs and evaluations alternating."""
    build, ours = seconds(lambda: Ours(name, *world, seed=0))
    theirs = Straightforward(name, *world, seed=0)
    for _ in range(arguments.warm_up):
        ours.epoch()
    theirs.epoch(max_batches=1)
    batches = arguments.baseline_batches if share else None
    users = min(arguments.baseline_users, world[0].num_users) if share else world[0].num_users
    measured: dict[str, list[float]] = defaultdict(list)
    metrics: dict[str, float] = {}
    for _ in range(arguments.repeats):
        measured["epoch_seconds"].append(seconds(ours.epoch)[0])
        spent, part = seconds(lambda: theirs.epoch(max_batches=batches))
        measured["epoch_seconds_baseline"].append(spent / part)
        spent, metrics = seconds(ours.evaluate)
        measured["eval_seconds"].append(spent)
        spent, _ = seconds(lambda: theirs.evaluate(max_users=users))
        measured["eval_seconds_baseline"].append(spent * world[0].num_users / users)
    found = {key: statistics.median(values) for key, values in measured.items()}
    return {**found, "build_seconds": build, "ranked_share": metrics["recall@50"]}


def accuracy(name: str, world: tuple[Split, ItemFeatures], *, seeds: int) -> dict[str, float]:
    """Return the mean test Recall@20 over seeds of both trainings, and of an untrained model."""
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(seeds):
        ours = Ours(name, *world, seed=seed, rate=ACCURACY_RATE)
        theirs = Straightforward(name, *world, seed=seed, rate=ACCURACY_RATE)
        found["untrained"].append(ours.evaluate()["recall@20"])
        for _ in range(ACCURACY_EPOCHS[name]):
            ours.epoch()
            theirs.epoch()
        found["ours"].append(ours.evaluate()["recall@20"])
        found["straightforward"].append(theirs.evaluate()["recall@20"])
    return {side: statistics.mean(values) for side, values in found.items()}


def evaluator_gap(world: tuple[Split, ItemFeatures]) -> float:
    """Return the largest difference of a mean metric between the evaluators (in fp64)."""
    split, features = world
    side = Straightforward("vbpr", split, features, seed=0, rate=ACCURACY_RATE)
    for _ in range(5):
        side.epoch()
    with torch.no_grad():
        embeddings = Embeddings(*(table.double() for table in side.embeddings()))
        slow = rank_in_a_loop(embeddings, side.seen, side.targets, users=range(split.num_users))
    fast = user_scores(full_sort(split).ranks(embeddings), target_users=split.test.users)
    return max(abs(float(fast[name].mean()) - value) for name, value in slow.items())


def peak_memory(name: str, size: Size) -> float:
    """Return the peak memory in MB of a process that makes data, trains an epoch and evaluates."""
    ours = Ours(name, *make_world(size, seed=0), seed=0)
    ours.epoch()
    ours.evaluate()
    # Of this process alone; ``ru_maxrss`` begins at what its parent had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def fresh_peak_memory(name: str, size: Size) -> float:
    """``peak_memory`` in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_memory, name, size).result()


def main() -> None:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="alternations of the two sides (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=5, help="epochs before anything is measured (%(default)s)")
    parser.add_argument("--baseline-batches", type=int, default=3, help="of the slow side at medium size (%(default)s)")
    parser.add_argument("--baseline-users", type=int, default=1000, help="that the slow side ranks there (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="of the comparison of accuracies (%(default)s)")
    parser.add_argument("--names", nargs="+", default=list(NAMES), choices=NAMES, help="recommenders (%(default)s)")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    sizes = SIZES
    if arguments.quick:
        sizes = QUICK_SIZES
        arguments.repeats, arguments.warm_up, arguments.seeds = 2, 1, 1
        arguments.baseline_batches, arguments.baseline_users = 1, 200
    results: dict[str, Any] = {}
    checks: dict[str, bool] = {}
    figures: dict[str, float] = {}
    for size_name, size in sizes.items():
        world = make_world(size, seed=0)
        figures |= {f"{size_name}_{what}": getattr(size, what) for what in ("users", "items", "per_user")}
        for name in arguments.names:
            key = f"{name}_{size_name}"
            found = compare(name, world, arguments=arguments, share=size_name == "medium")
            figures |= {f"{key}_{what}": round(value, 4) for what, value in found.items()}
            ours = found["epoch_seconds"] + found["eval_seconds"]
            baseline = found["epoch_seconds_baseline"] + found["eval_seconds_baseline"]
            results[key] = {
                "ours": round(ours, 4),
                "baseline": round(baseline, 4),
                "unit": "s",
                "ratio": round(baseline / ours, 2),
            }
            figures[f"{key}_peak_rss_mb"] = round(fresh_peak_memory(name, size), 1)
            print(f"{key}: {results[key]}; {found}; {figures[f'{key}_peak_rss_mb']} MB", flush=True)
        peaks = [figures[f"{name}_{size_name}_peak_rss_mb"] for name in arguments.names]
        figures[f"{size_name}_peak_rss_mb"] = max(peaks)
    figures["peak_rss_mb"] = max(figures[f"{size_name}_peak_rss_mb"] for size_name in sizes)
    world = make_world(ACCURACY_SIZE, seed=0)
    gap = evaluator_gap(make_world(sizes["small"], seed=0))
    checks["same_metrics_from_both_evaluators"] = gap <= 1e-9
    print(f"evaluators: largest difference {gap:.1e}", flush=True)
    for name in arguments.names:
        reached = accuracy(name, world, seeds=arguments.seeds)
        figures |= {f"{name}_recall@20_{side}": round(value, 4) for side, value in reached.items()}
        bound = ACCURACY_BOUND * math.sqrt(5 / min(5, arguments.seeds))  # fewer seeds, more noise
        checks[f"{name}_is_as_accurate"] = abs(reached["ours"] - reached["straightforward"]) <= bound
        checks[f"{name}_learns"] = reached["ours"] > reached["untrained"] + ACCURACY_BOUND
        print(f"{name}: test Recall@20 {reached}", flush=True)
    from grpo_mmpc.utils.manifest import environment  # after what is measured

    where = environment()
    print(
        json.dumps(
            {
                "benchmark": "recbench",
                "hardware": where["hardware"],
                "versions": where["versions"],
                "results": results,
                "figures": figures,
                "checks": checks,
            }
        )
    )


if __name__ == "__main__":
    main()
