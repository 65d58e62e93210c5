"""A small SGMN, and photographs with titles for it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch

from tests.training.tiny import CONFIG, RECIPE, photographs
from training.configs import SgmnLosses
from training.data.batches import Batch, BatchDrawer
from training.data.photographs import PhotographSet
from training.data.tokenizing import TextTokenizer, train_tokenizer
from training.models.sgmn.model import Sgmn, SgmnConfig
from training.models.text import TextConfig

TEXT = TextConfig(vocabulary=300, width=12, layers=1, heads=2, max_tokens=16, embedding=8)
SGMN_CONFIG = SgmnConfig(
    **{f.name: getattr(CONFIG, f.name) for f in fields(CONFIG)}
    | {"reconstruction": None, "text": TEXT}
)
SGMN_RECIPE = replace(
    RECIPE,
    name="tiny_sgmn",
    model=SGMN_CONFIG,
    reconstruction_weight=0.0,
    mining_text=0.5,
    sgmn=SgmnLosses(icl=1.0),
    schedule=replace(RECIPE.schedule, text_rate=1e-3),
)
TITLES = ["red soap bar", "blue milk carton", "green tea tin", "dark rye bread", "tall lamp"]


def titled_photographs() -> PhotographSet:
    return replace(photographs(), titles=TITLES)


def tiny_tokenizer() -> TextTokenizer:
    return TextTokenizer(train_tokenizer(TITLES, TEXT.vocabulary), TEXT.max_tokens)


def tiny_sgmn(config: SgmnConfig = SGMN_CONFIG, seed: int = 0) -> Sgmn:
    torch.manual_seed(seed)
    return Sgmn(config).eval()


def sgmn_batch() -> Batch:
    """With a title for each product, and speech for some clips."""
    recipe = replace(SGMN_RECIPE, text_dropout=0.0, wrong_speech=0.0)
    data = {"made": titled_photographs()}
    return BatchDrawer(recipe, data, torch.device("cpu"), tokenizer=tiny_tokenizer()).draw(0)


def with_descriptions(folder: Path) -> Path:
    """The tiny photographs' folder, its products described."""
    head, *rows = (folder / "classes.csv").read_text().splitlines()
    told = [f"{row},{title}" for row, title in zip(rows, TITLES, strict=True)]
    (folder / "classes.csv").write_text("\n".join([f"{head},description", *told]))
    return folder
