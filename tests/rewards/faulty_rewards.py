"""Rewards that misbehave, as a user's file may."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

_draws = itertools.count()
_held = []


def hanging(*, seconds: float = 30.0):
    def score(*, predictions, **columns):
        if "hang" in predictions:
            time.sleep(seconds)
        return [1.0] * len(predictions)

    return score


def dying(*, how: str = "kill"):
    def score(*, predictions, **columns):
        if "die" in predictions:
            os._exit(3) if how == "kill" else sys.exit("gone")
        return [1.0] * len(predictions)

    return score


def leaking(*, megabytes: int = 1024):
    def score(*, predictions, **columns):
        if "leak" in predictions:
            _held.append(b"x" * (megabytes << 20))
        return [float(len(_held))] * len(predictions)

    return score


def lucky():
    def score(*, predictions, **columns):
        return [float(next(_draws)) for _ in predictions]

    return score


def with_corpus():
    known = []

    def score(*, predictions, **columns):
        return [float(p in known[0]) for p in predictions]

    score.fit = known.append
    return score


def swinging(*, megabytes: int = 200):
    def score(*, predictions, **columns):
        if _held:
            _held.clear()
        else:
            _held.append(b"x" * (megabytes << 20))
        return [1.0] * len(predictions)

    return score


def own_timeout():
    def score(*, predictions, **columns):
        raise TimeoutError("the judge did not answer")

    return score


def generating():
    def score(*, predictions, **columns):
        return (float(len(p)) for p in predictions)

    return score


def slow_to_prepare(*, seconds: float = 60.0):
    def score(*, predictions, **columns):
        time.sleep(seconds)
        return [1.0] * len(predictions)

    score.prepare = lambda **columns: time.sleep(seconds)
    return score


def with_helper():
    """Exit status of a helper that it starts and ends."""

    def score(*, predictions, **columns):
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
        helper.terminate()
        return [float(helper.wait(timeout=30))] * len(predictions)

    return score


def returning(*, what: str):
    """The right numbers in the wrong shape, or numbers that are none."""

    def score(*, predictions, **columns):
        if what == "dict":
            return dict.fromkeys(range(len(predictions)), 1.0)
        return set(range(len(predictions))) if what == "set" else [10**400] * len(predictions)

    return score


def emptying():
    def score(*, predictions, completions, **columns):
        scores = [float(len(predictions.pop())) for _ in completions]
        completions.clear()
        return scores[::-1]

    return score


def declaring(**attributes):
    def score(*, predictions, **columns):
        return [1.0] * len(predictions)

    for name, value in attributes.items():
        setattr(score, name, float(value) if value == "nan" else value)
    return score


def failing_factory():
    raise RuntimeError("no GPU here")


def importing_torch():
    """Takes its time, as encoders do on their first call."""

    def score(*, predictions, **columns):
        import torch

        return [1.0 if torch.cuda.device_count() >= 0 else 0.0] * len(predictions)

    score.prepare = lambda **columns: score(predictions=[])
    return score


def sees_heavy_modules():
    def score(*, predictions, **columns):
        known = all(hasattr(sys.modules.get(name), "__version__") for name in ("torch", "transformers"))
        return [float(known)] * len(predictions)

    score.needs = ("encoder",)
    return score


def forking():
    def score(*, predictions, **columns):
        if not (pid := os.fork()):
            time.sleep(600)
            os._exit(0)
        return [float(pid)] * len(predictions)

    return score


def misusing_json():
    def score(*, predictions, **columns):
        json.loads("{")

    return score


def interrupting():
    """Is in the middle of a batch when Ctrl-C comes."""

    def score(*, predictions, **columns):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        print("left the reward", flush=True)
        return [1.0] * len(predictions)

    return score
