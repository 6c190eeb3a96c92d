"""The weights of a model's folder, looked at without reading them: all there, and whole."""

from pathlib import Path

from grpo_mmpc.errors import first_line
from grpo_mmpc.utils.files import read_object

_INDEX = "model.safetensors.index.json"
_POINTER = b"version https://git-lfs"


def weights_problem(folder: Path) -> str | None:
    """Return what a local folder's weights lack, and what to do; None where they seem whole.

    Loading would find it out after minutes, and in other words.
    """
    if not folder.is_dir():
        return None
    # heavy: imported on use
    from safetensors import SafetensorError, safe_open

    shards = read_object((folder / _INDEX).resolve()).get("weight_map")  # a link in the hub's cache
    names = {str(name) for name in shards.values()} if isinstance(shards, dict) else set()
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        return (
            f"{folder}: {len(missing)} of {len(names)} files of {_INDEX} are missing, such as {missing[0]}; copy them"
        )
    files = sorted(file for file in folder.glob("model*.safetensors") if file.is_file())
    for file in files:
        with file.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                return f"{file} is a pointer of Git LFS, not the weights: run git lfs pull in {folder}"
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            return f"{file} cannot be read ({first_line(error)}); copy it again"
    if not files and not any(folder.glob("*.bin")):
        return f"{folder} holds no weights (model.safetensors); copy the whole folder of the model"
    return None
