"""Models and training states as safetensors files: tensors, and JSON in the header. No pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from laser_fx.errors import InputError, OptionError
from laser_fx.files import replacing
from laser_fx.zoo.trm import TRM, TRMConfig

__all__ = ["StoredModel", "load_model", "read", "save_model", "write"]

_KEY = "laser_fx.zoo"


@dataclass(frozen=True)
class StoredModel:
    """A model read from a file, in eval mode, and the supervision steps at which it was measured."""

    model: TRM
    steps: int


def save_model(path: Path, config: TRMConfig, weights: dict[str, Tensor], steps: int) -> None:
    """Write a model's weights, rounded to float16, its config and test-time supervision steps as one file.

    Raises:
        OutputPathError: the file cannot be written.
    """
    rounded = {name: weight.to(torch.float16) for name, weight in weights.items()}
    write(path, rounded, {"config": asdict(config), "steps": steps})


def load_model(path: Path) -> StoredModel:
    """The model that `save_model` wrote to ``path``, on the CPU, its weights in float32.

    Raises:
        InputError: the file is missing, damaged, or holds no model of the zoo.
    """
    tensors, about = read(path)
    try:
        model = TRM(TRMConfig.from_dict(about["config"]))
        model.load_state_dict(tensors)
        return StoredModel(model.eval(), int(about["steps"]))
    except (OptionError, RuntimeError, TypeError, KeyError) as error:
        raise _unreadable(path, error) from error


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON object as one file, whole or not at all.

    Raises:
        OutputPathError: the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {_KEY: json.dumps(about, sort_keys=True)}
    with replacing(path, overwrite=True) as beside:
        save_file(plain, beside, metadata=header)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the JSON object that `write` wrote to ``path``.

    Raises:
        InputError: the file is missing, damaged, or from elsewhere.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    what = f"not a readable file of the zoo: {type(error).__name__}: {error}"
    return InputError(what, where=str(path), fix="install the package again, or train the model again")
