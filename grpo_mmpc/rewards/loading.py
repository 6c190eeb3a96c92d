"""The loading of rewards from named specs, and every check on a mix that needs no model."""

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo_mmpc.config import RewardSpec, nearest
from grpo_mmpc.errors import GrpoMmpcError, RewardError
from grpo_mmpc.rewards.declaration import Reward
from grpo_mmpc.tasks import SHIPPED, Task
from grpo_mmpc.types import TARGET_KINDS, RewardFn
from grpo_mmpc.utils.hashing import hex_digest

ENTRY_POINT_GROUP = "grpo_mmpc.rewards"
_OF_A_FILE = "grpo_mmpc_user_reward_"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedReward:
    """A reward of the mix, ready to be called."""

    name: str
    """Unique in the mix; the metric key and the column of recorded rollouts."""
    weight: float
    fn: RewardFn
    tasks: tuple[str, ...]
    """Tasks it is applied to; completions of other tasks are unscored."""
    worst_score: float
    """Value of a malformed completion."""
    spec: RewardSpec
    """Its limits; builds it again in another process."""

    @property
    def asks_for_corpus(self) -> bool:
        """True if it is to be called once with all training titles, or images."""
        return any(getattr(self.fn, name, None) is not None for name in ("fit", "fit_images"))

    @property
    def prepare(self) -> Callable[..., None] | None:
        """The function called before completions exist; None if it encodes nothing."""
        return getattr(self.fn, "prepare", None)


@cache
def registered_rewards() -> Mapping[str, str]:
    """Return the names of all installed rewards with the ``module:factory`` of each.

    Read once: it takes tens of milliseconds, and a recipe asks for each of its rewards.
    """
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def load_factory(name: str) -> Callable[..., RewardFn]:
    """Return the factory of a registered name, ``module:factory`` or ``path/to/file.py:factory``.

    Raises:
        RewardError: The name is unknown, or the file or module cannot be imported; says which and
            what to do.
    """
    registered = registered_rewards()
    target = registered.get(name, name)
    source, separator, attribute = target.rpartition(":")
    if not separator:
        raise RewardError(
            f"unknown reward {name!r}; {nearest(name, registered)} "
            "A reward of your own is written as path/to/file.py:factory or module:factory"
        )
    try:
        module = _module_from_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except FileNotFoundError as error:
        raise RewardError(f"reward {name!r}: no such file {source} (working directory {Path.cwd()})") from error
    except SyntaxError as error:
        raise RewardError(f"reward {name!r}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # a user's module may fail in any way while being imported
        raise RewardError(f"reward {name!r}: importing {source} failed: {type(error).__name__}: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        functions = [
            key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")
        ]
        raise RewardError(f"reward {name!r}: {source} has no function {attribute!r}; {nearest(attribute, functions)}")
    if name not in registered and not _is_reward(factory, module):
        raise RewardError(
            f"reward {name!r} is not known to be one, and is not called: it must be defined in a file that the recipe "
            "names, or say what it returns (-> Reward, from grpo_mmpc import Reward)"
        )
    return factory  # type: ignore[no-any-return]


def _is_reward(factory: Any, module: ModuleType) -> bool:
    """Return whether a target says that it makes a reward, or is part of a file of rewards."""
    if isinstance(factory, type):
        says_so = issubclass(factory, Reward)
    else:
        returned = inspect.signature(factory).return_annotation
        name = returned if isinstance(returned, str) else getattr(returned, "__name__", "")
        says_so = returned == RewardFn or name.rpartition(".")[2] in ("Reward", "RewardFn")
    if says_so or not module.__name__.startswith(_OF_A_FILE):
        return says_so
    home = sys.modules.get(getattr(factory, "__module__", ""))
    return home is module or getattr(home, getattr(factory, "__name__", ""), None) is not factory


def check_mix(
    specs: Sequence[RewardSpec], tasks: Sequence[str], *, known_tasks: Mapping[str, Task] = SHIPPED
) -> Iterable[tuple[str, str]]:
    """Yield everything wrong with a mix as (dotted key, message), without loading a model."""
    keys = [spec.key for spec in specs]
    trained_tasks: set[str] = set()
    broken = False
    for index, spec in enumerate(specs):
        where = f"rewards.mix.{index}"
        if keys.index(keys[index]) != index:
            yield f"{where}.name", f"{keys[index]!r} appears twice; give every reward of the mix a name of its own"
        try:
            reward = build_reward(spec, known_tasks=known_tasks)
        except RewardError as error:
            broken = True
            yield f"{where}.name", str(error)
            continue
        if not set(reward.tasks) & set(tasks):
            yield (
                f"{where}.tasks",
                f"{spec.name!r} scores {', '.join(reward.tasks) or 'no task'}, the run trains {', '.join(tasks)}; "
                "remove it or change its tasks",
            )
        if spec.weight > 0:
            trained_tasks |= set(reward.tasks)
    untrained = [task for task in tasks if task not in trained_tasks]
    if untrained and not broken:
        yield (
            "rewards.mix",
            f"no reward with a positive weight scores {', '.join(untrained)}; that task would not learn: add one, or "
            "leave the task out of tasks",
        )


def build_reward(spec: RewardSpec, *, known_tasks: Mapping[str, Task] = SHIPPED) -> LoadedReward:
    """Build the reward of a spec, for those of the known tasks that it can score.

    Raises:
        RewardError: The factory cannot be found, or refuses its kwargs.
    """
    factory = load_factory(spec.name)
    signature = inspect.signature(factory)
    try:
        signature.bind(**spec.kwargs)
    except TypeError as error:
        unknown = [key for key in spec.kwargs if key not in signature.parameters]
        hint = f"; {nearest(unknown[0], signature.parameters)}" if unknown and signature.parameters else ""
        raise RewardError(f"reward {spec.name!r} takes {signature}, {error}{hint}") from error
    try:
        fn = factory(**spec.kwargs)
    except (TypeError, ValueError, GrpoMmpcError) as error:
        raise RewardError(f"reward {spec.name!r} refuses its kwargs {spec.kwargs}: {error}") from error
    except (Exception, SystemExit) as error:  # a user's factory may fail in any way
        raise RewardError(f"reward {spec.name!r}: its factory failed: {type(error).__name__}: {error}") from error
    if not callable(fn):
        raise RewardError(f"reward {spec.name!r}: the factory returned {type(fn).__name__}, expected a function")
    targets = getattr(fn, "targets", TARGET_KINDS)
    if isinstance(targets, str) or not set(targets) <= set(TARGET_KINDS):
        raise RewardError(
            f"reward {spec.name!r}: targets is {targets!r}, expected a tuple out of {', '.join(TARGET_KINDS)}"
        )
    if hasattr(fn, "tasks"):
        raise RewardError(f"reward {spec.name!r}: tasks says nothing; say which answers it scores: targets=('text',)")
    worst_score = getattr(fn, "worst_score", 0.0)
    if not isinstance(worst_score, Real) or not math.isfinite(worst_score):
        raise RewardError(f"reward {spec.name!r}: worst_score is {worst_score!r}, expected a finite number")
    languages = {getattr(fn, "language", None)} - {None}
    can_score = [
        name
        for name, task in known_tasks.items()
        if task.kind in targets and (not languages or task.language in languages)
    ]
    tasks = tuple(task for task in (spec.tasks or can_score) if task in can_score)
    return LoadedReward(
        name=spec.key,
        weight=spec.weight,
        fn=fn,
        tasks=tasks,
        worst_score=float(worst_score),
        spec=spec,
    )


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(path)
    # One module for all factories of a file, so that they share what it holds.
    name = f"{_OF_A_FILE}{hex_digest(str(path.resolve()), size=8)}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RewardError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
