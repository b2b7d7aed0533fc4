"""What stands in a folder of another library: config.json and safetensors; nothing is ever unpickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmpt.data.manifest import sha256_of
from mmpt.errors import CheckpointError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.npz", "*.bin.index.json")
OLD_NAMES = {  # what earlier versions of transformers and torch called the same
    ".gamma": ".weight",
    ".beta": ".bias",
    ".conv.weight_g": ".conv.parametrizations.weight.original0",
    ".conv.weight_v": ".conv.parametrizations.weight.original1",
}


class Weights(NamedTuple):
    """Tensors by name, and what they were read from."""

    tensors: dict[str, Tensor]
    sha256: dict[str, str]  # of every file


def read_json(file: Path) -> dict[str, Any]:
    """One mapping; raises CheckpointError for anything else."""
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: missing or not JSON ({error})") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{file}: expected a mapping, got {type(plain).__name__}")
    return plain


def read_weights(folder: Path) -> Weights:
    """model.safetensors, or all files that its index names; raises CheckpointError naming what is missing or broken."""
    if (folder / WEIGHTS).exists():
        return read_file(folder / WEIGHTS)
    if (folder / INDEX).exists():
        return _sharded(folder)
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder}: has weights in {pickled[0]} and no {WEIGHTS}; unpickling a file can run any code, so mmpt "
            'never does; where you trust it, convert it once: python -c "from transformers import AutoModel; '
            f"AutoModel.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\", and copy the tokenizer "
            "or preprocessor files beside it"
        )
    raise CheckpointError(f"{folder}: there is neither {WEIGHTS} nor {INDEX}")


def read_file(file: Path) -> Weights:
    """One safetensors file."""
    if file.suffix != ".safetensors":
        raise CheckpointError(
            f"{file}: expected a .safetensors file; unpickling a file can run any code, so mmpt never does; where you "
            "trust it, load it with torch and write it with safetensors.torch.save_file"
        )
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                tensors[_today(name)] = opened.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: missing, or not a whole safetensors file ({error}); get it again") from error
    return Weights(tensors, {file.name: sha256_of(file)})


def _sharded(folder: Path) -> Weights:
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, Mapping) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{folder / INDEX}: there is no 'weight_map' from weights to files")
    tensors, sha256 = {}, {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{folder / INDEX}: names the file '{name}', which is not beside it")
        shard = read_file(folder / name)
        tensors |= shard.tensors
        sha256 |= shard.sha256
    missing = [name for name in places if _today(name) not in tensors]
    if missing:
        raise CheckpointError(
            f"{folder / places[missing[0]]}: has no weights '{missing[0]}', which {INDEX} says it has"
        )
    return Weights(tensors, sha256)


def _today(name: str) -> str:
    for old, new in OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
