"""Detectors of the intended product, from nothing on LPR-Synth: of single frames, and of clips.

    lpr-train data synth --out DIR --clips 20000 --size 128
    lpr-train fit detector_small_synth --data synth=DIR --out SINGLE
    lpr-train fit detector_clip_small_synth --data synth=DIR --out CLIP \\
        --start SINGLE/best.safetensors

The second begins with the first; small enough to stand beside the small RICE on a CPU.
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import DetectorRecipe, Schedule, Source, View
from training.models.detector import DetectorConfig

FRAME_VIEW = View(scale=(0.6, 1.0), rotation=5.0, erase=0.1)

DETECTOR_SMALL_SYNTH = DetectorRecipe(
    name="detector_small_synth",
    model=DetectorConfig(),
    sources=(Source("synth", "lpr4m", products=32, frames=4),),
    validate_on="synth",
    schedule=Schedule(
        steps=6000, warmup=200, encoder_rate=5e-4, matching_rate=5e-4, weight_decay=0.05,
        clip_norm=0.1, ema=0.998, evaluate_every=500,
    ),
    frame_view=FRAME_VIEW,
)  # fmt: skip

DETECTOR_CLIP_SMALL_SYNTH = replace(
    DETECTOR_SMALL_SYNTH,
    name="detector_clip_small_synth",
    model=DetectorConfig(temporal_layers=2),
    sources=(Source("synth", "lpr4m", products=16, frames=10),),
    schedule=Schedule(
        steps=3000, warmup=100, encoder_rate=1e-4, matching_rate=5e-4, weight_decay=0.05,
        clip_norm=0.1, ema=0.998, evaluate_every=500,
    ),
)  # fmt: skip
