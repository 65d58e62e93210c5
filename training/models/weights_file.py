"""Reads tensors from the files that others publish weights in; nothing in them is executed.

safetensors, `torch.save` files (read with weights_only) and TorchScript archives. Knows nothing of
what the tensors are for.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.errors import TrainingError

WRAPPERS = ("state_dict", "model", "model_state_dict")  # what training code puts weights under


FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder, as `save_pretrained` writes it


class WeightsError(TrainingError):
    """Weights cannot be read or do not fit; the message says which and why."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, floating ones as float32. Raises WeightsError."""
    try:
        found = _load(path)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:  # torch's own words advise to execute it
        raise WeightsError(f"{path} holds more than tensors and numbers: it is not read") from error
    except Exception as error:  # whatever a broken file makes of torch's readers
        raise WeightsError(f"{path} holds no weights ({type(error).__name__}: {error})") from error
    tensors = _state_dict(found)
    if not tensors:
        raise WeightsError(f"{path} holds no state dict")
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def weights_in(folder: Path) -> Path:
    """The file of a folder that has the weights. Raises WeightsError."""
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder}: neither {' nor '.join(FILES)} is in it")


def config_in(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says. Raises WeightsError."""
    file = folder / "config.json"
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file}: {error}") from error
    if not isinstance(told, dict):
        raise WeightsError(f"{file}: no object")
    return told


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if _is_torchscript(path):
        return _read_torchscript(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_torchscript(path: Path) -> bool:
    """Both kinds of file are zips; only TorchScript's has constants beside the code."""
    return any(name.endswith("/constants.pkl") for name in _members(path))


def _members(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """Loading runs no code of the archive but `__setstate__`, so one that has it is refused."""
    with zipfile.ZipFile(path) as archive:
        code = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
        if any(b"__setstate__" in archive.read(name) for name in code):
            raise WeightsError(f"{path}: a TorchScript archive that runs code when it is loaded")
    module = torch.jit.load(path, map_location="cpu")
    return dict(module.state_dict())


def _state_dict(found: Any) -> dict[str, Tensor]:
    """The tensors of what was loaded, from under what training code wraps around them."""
    while isinstance(found, dict):
        wrapper = next((name for name in WRAPPERS if isinstance(found.get(name), dict)), None)
        if wrapper is None:
            break
        found = found[wrapper]
    if not isinstance(found, dict):
        return {}
    tensors = {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if all(name.startswith("module.") for name in tensors):  # DistributedDataParallel's
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors
