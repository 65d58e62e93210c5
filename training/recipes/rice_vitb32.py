"""RICE as released, on ViT-B/32: one recipe for each data set it was published on.

Schedule, augmentation and losses are the released code's (batches of 96 to 128, 5,000 updates).
Start from CLIP's weights: `lpr-train fit rice_vitb32_lpr750k --encoder PATH`.
"""

from __future__ import annotations

from typing import Literal

from training.configs import Recipe, Schedule, Source, View
from training.models.rice import RiceConfig

# Pictures are read at 8/7 of the encoder's size: 256 pixels, of which 224 are cropped at random.
RELEASED_VIEW = View(
    scale=(7 / 8, 7 / 8), aspect=0.0, rotation=0.0, flip=0.5, brightness=0.0, contrast=0.0,
    saturation=0.0, tint=0.0, blur=0.0, erase=0.0,
)  # fmt: skip
RELEASED_SCHEDULE = Schedule(
    steps=5000, warmup=500, encoder_rate=1e-6, matching_rate=1e-4, weight_decay=0.2, eps=1e-6,
    clip_norm=None,
)  # fmt: skip


def _released(data: Literal["lpr4m", "lpr750k", "movingfashion"], batch: int) -> Recipe:
    return Recipe(
        name=f"rice_vitb32_{data}",
        model=RiceConfig(),
        sources=(Source(data, data, products=batch, frames=10),),
        validate_on=data,
        schedule=RELEASED_SCHEDULE,
        picture_view=RELEASED_VIEW,
        frame_view=RELEASED_VIEW,
    )


RICE_VITB32 = (
    _released("lpr4m", batch=128),
    _released("lpr750k", batch=128),
    _released("movingfashion", batch=96),
)
