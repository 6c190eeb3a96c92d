"""The start of a reward of one's own: a factory that runs, its test, its line in a recipe."""

import keyword
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards.loading import registered_rewards
from grpo_mmpc.utils.files import write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReward:
    """The files that were written."""

    reward: Path
    test: Path
    recipe_line: str
    """For ``rewards.mix``; the path is relative to where the command ran."""


def write_new_reward(name: str, *, folder: Path) -> NewReward:
    """Write ``NAME.py`` and ``test_NAME.py``.

    Raises:
        RewardError: The name is no Python name or taken, the folder is missing, or a file is in the
            way.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise RewardError(
            f"{name!r} cannot be the name of a Python function; use letters, digits and underscores, and no digit "
            f"first, such as {_suggestion(name)}"
        )
    if name in registered_rewards():
        raise RewardError(f"{name!r} is an installed reward already (grpo-mmpc rewards list); choose another name")
    if not folder.is_dir():
        raise RewardError(f"{folder} is not a folder; make it first, or leave --dir out")
    contents = {folder / f"{name}.py": "reward.txt", folder / f"test_{name}.py": "test.txt"}
    for path in contents:
        if path.exists():
            raise RewardError(f"{path} exists and is left as it is; choose another name or --dir")
    templates = resources.files("grpo_mmpc.rewards").joinpath("templates")
    for path, template in contents.items():
        write_text(path, templates.joinpath(template).read_text("utf-8").replace("NAME", name))
    reward, test = contents
    return NewReward(reward=reward, test=test, recipe_line=f'- {{name: "{reward}:{name}", weight: 0.1}}')


def _suggestion(name: str) -> str:
    kept = "".join(letter if letter.isalnum() else "_" for letter in name).strip("_").lower()
    if kept[:1].isdigit() or keyword.iskeyword(kept):
        kept = f"reward_{kept}"
    return kept if kept.isidentifier() else "my_reward"
