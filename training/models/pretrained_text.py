"""Starting weights of a text tower: a folder as transformers' `save_pretrained` writes it.

CLIP's and Chinese-CLIP's text towers with their projection, alone or within the whole model, and
any other encoder of text that transformers' AutoModel builds. Nothing is fetched, and no code of
the folder is executed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.models.text import Family, HuggingFaceText, TextConfig, TextTower
from training.models.weights_file import WeightsError, config_in, read_tensors, weights_in

FAMILIES: dict[str, Family] = {
    "clip": "clip",
    "clip_text_model": "clip",
    "chinese_clip": "chinese_clip",
    "chinese_clip_text_model": "chinese_clip",
}
LONGEST = 77  # tokens: what CLIP reads; longer ones would cost more than clips do
OF_THE_MACHINE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


@dataclass(frozen=True)
class PretrainedText:
    config: TextConfig
    tensors: dict[str, Tensor]  # of the `TextTower`; without `projection` where there is none
    tokenizer: str  # tokenizer.json


def read_text_folder(folder: Path, *, max_tokens: int = LONGEST) -> PretrainedText:
    """The tower, its weights and its tokenizer. Raises WeightsError."""
    told = config_in(folder)
    family = FAMILIES.get(str(told.get("model_type")), "hugging_face")
    of_tower = dict(told.get("text_config", told)) if family != "hugging_face" else dict(told)
    if family != "hugging_face":
        of_tower["model_type"] = f"{family}_text_model"
    for name in OF_THE_MACHINE:
        of_tower.pop(name, None)
    tensors = read_tensors(weights_in(folder))
    projection = tensors.get("text_projection.weight")
    config = _described(folder, family, of_tower, max_tokens, projection)
    return PretrainedText(config, _ours(tensors, config, folder), _tokenizer(folder))


def _described(
    folder: Path, family: Family, told: dict[str, Any], max_tokens: int, projection: Tensor | None
) -> TextConfig:
    """What the file leaves out has transformers' default."""
    import transformers as hf  # noqa: PLC0415  an extra that only these towers need

    try:
        rest = {name: value for name, value in told.items() if name != "model_type"}
        full = hf.AutoConfig.for_model(told["model_type"], **rest)
        return TextConfig(
            family=family,
            vocabulary=full.vocab_size,
            width=full.hidden_size,
            layers=full.num_hidden_layers,
            heads=full.num_attention_heads,
            max_tokens=min(max_tokens, full.max_position_embeddings),
            embedding=full.hidden_size if projection is None else len(projection),
            backbone=json.dumps(told, sort_keys=True),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{folder / 'config.json'}: no text tower: {error!r}") from error


def begin_text_with(tower: TextTower, found: PretrainedText) -> None:
    """Puts the weights into a tower of the same config. Raises WeightsError."""
    if tower.config != found.config:
        raise WeightsError("the text tower's weights are of another config than the recipe's")
    missing, unexpected = tower.load_state_dict(found.tensors, strict=False)
    if unexpected or missing not in ([], ["projection.weight"]):
        raise WeightsError(f"text weights do not fit: {(missing + unexpected)[:3]}")


def _ours(tensors: dict[str, Tensor], config: TextConfig, folder: Path) -> dict[str, Tensor]:
    """By our names. What transformers calls `text_model.x` is `x` of the tower."""
    with torch.device("meta"):
        expected = HuggingFaceText(config).tower.state_dict()
    ours = {}
    for name in expected:
        spellings = (name, f"text_model.{name}", f"bert.{name}", f"roberta.{name}")
        theirs = next((spelling for spelling in spellings if spelling in tensors), None)
        if theirs is None:
            raise WeightsError(f"{folder} has no {name}: no such text tower")
        ours[f"backbone.tower.{name}"] = tensors[theirs]
    if "text_projection.weight" in tensors:
        ours["projection.weight"] = tensors["text_projection.weight"]
    return ours


def _tokenizer(folder: Path) -> str:
    """tokenizer.json as it lies there, or made of the vocabulary that an older folder has."""
    import transformers as hf  # noqa: PLC0415  an extra that only these towers need

    if (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.json").read_text(encoding="utf-8")
    try:
        found = hf.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return str(found.backend_tokenizer.to_str())
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{folder}: no tokenizer: {error}") from error
