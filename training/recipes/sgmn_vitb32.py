"""SGMN on ViT-B/32: one recipe for each data set it was published on.

    lpr-train fit sgmn_vitb32_lpr4m --data lpr4m=DIR --encoder CLIP --text CHINESE_CLIP --out RUN
    lpr-train fit sgmn_vitb32_movingfashion --data movingfashion=DIR --encoder CLIP --out RUN

CLIP is a file or a folder of its weights, CHINESE_CLIP a folder as `save_pretrained` writes it,
whose text tower stays frozen. Losses are the paper's; its schedule was not found, so this is that
of RICE's released code, but that gradients are clipped. MovingFashion has neither speech nor
titles: of SGMN the graph remains.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

from training.configs import Recipe, SgmnLosses, Source
from training.models.sgmn.model import SgmnConfig
from training.models.text import TextConfig
from training.recipes.rice_vitb32 import RELEASED_SCHEDULE, RELEASED_VIEW

# The text tower of Chinese-CLIP ViT-B/16, RoBERTa-wwm-ext-base.
CHINESE_CLIP = TextConfig(
    family="chinese_clip",
    vocabulary=21_128,
    width=768,
    layers=12,
    heads=12,
    max_tokens=77,
    embedding=512,
    backbone=json.dumps(
        {
            "model_type": "chinese_clip_text_model",
            "vocab_size": 21_128,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        }
    ),
)


def _sgmn(data: Literal["lpr4m", "movingfashion"], batch: int, text: TextConfig | None) -> Recipe:
    return Recipe(
        name=f"sgmn_vitb32_{data}",
        model=SgmnConfig(text=text, text_guidance=text is not None),
        sources=(Source(data, data, products=batch, frames=10),),
        validate_on=data,
        schedule=replace(RELEASED_SCHEDULE, clip_norm=1.0),
        picture_view=RELEASED_VIEW,
        frame_view=RELEASED_VIEW,
        mining_text=0.0 if text is None else 0.5,
        reconstruction_weight=0.0,
        sgmn=SgmnLosses(),
    )


SGMN_VITB32 = (
    _sgmn("lpr4m", batch=128, text=CHINESE_CLIP),
    _sgmn("movingfashion", batch=96, text=None),
)
