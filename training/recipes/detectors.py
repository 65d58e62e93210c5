"""Detectors of the intended product, from nothing on LPR-Synth: of single frames, and of clips.

    lpr-train data synth --out DIR --clips 16000 --size 128 --rivals
    lpr-train fit detector_small_synth --data synth=DIR --out SINGLE
    lpr-train fit detector_clip_small_synth --data synth=DIR --out CLIP \\
        --start SINGLE/best.safetensors

The second begins with the first and trains it further, now that its queries are judged over whole
clips too: with `--rivals` some frames alone cannot tell the product that is sold. Small enough to
stand beside the small RICE on a CPU.
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import DetectorRecipe, Schedule, Source, View
from training.models.detector import DetectorConfig

# Turned, a box is looser than what it is around; blurred and covered, frames are slow to make.
FRAME_VIEW = View(scale=(0.75, 1.0), aspect=0.15, rotation=0.0, blur=0.0, erase=0.0)

DETECTOR_SMALL_SYNTH = DetectorRecipe(
    name="detector_small_synth",
    model=DetectorConfig(image_size=128, stem_depth=3, first_stride=4),
    sources=(Source("synth", "lpr4m", products=16, frames=4),),
    validate_on="synth",
    schedule=Schedule(
        steps=10_000, warmup=100, encoder_rate=1e-3, matching_rate=1e-3, weight_decay=0.05,
        clip_norm=1.0, ema=0.998, evaluate_every=1000,
    ),
    frame_view=FRAME_VIEW,
)  # fmt: skip

DETECTOR_CLIP_SMALL_SYNTH = replace(
    DETECTOR_SMALL_SYNTH,
    name="detector_clip_small_synth",
    model=replace(DETECTOR_SMALL_SYNTH.model, temporal_layers=2),
    sources=(Source("synth", "lpr4m", products=16, frames=10),),
    schedule=Schedule(
        steps=5000, warmup=50, encoder_rate=5e-4, matching_rate=1e-3, weight_decay=0.05,
        clip_norm=1.0, ema=0.995, evaluate_every=500,
    ),
)  # fmt: skip
