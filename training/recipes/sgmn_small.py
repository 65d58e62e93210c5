r"""A small SGMN, with titles and what is said, on LPR-Synth and on groceries.

    lpr-train fit guided_small_synth --data synth=DIR --start SEES --out GUIDED
    lpr-train fit sgmn_small_synth --data synth=DIR --start GUIDED --steps 1500 --seed 7 --out SHOWN
    lpr-train ablate sgmn_small_synth --data synth=DIR --start SHOWN --seeds 3 \
        --unseen-test OTHER --out RUNS --report docs
    lpr-train fit grocery_sgmn_small --data grocery=DIR --data made=DIR --start READS --out RUN
    lpr-train ablate grocery_sgmn_small --data grocery=DIR --data made=DIR --start READS \
        --out RUNS --report docs
    lpr-train fit sgmn_live_small --data grocery=DIR --data synth=DIR --start SHIPPED \
        --detector DETECTOR --out RUN

On livestreams GUIDED begins with SEES, a checkpoint of `grocery_small_128`, and trains all
together, until words and sight are in one space. Then what sees stays locked, and the frame graph
learns from whole clips which frames show the product; SHOWN is the last of that run's checkpoints,
for val hardly tells. RICE's contrast stands in the place of triplets and instance graph, which
flatten the embedding (docs/LOG.md), and all of a batch's negatives contest a match: none is left to
mine.

On groceries the encoder and decoder of READS, a checkpoint of `grocery_text_small`, stay locked:
guidance and graphs are trained, and text a little further. RICE's contrast stands beside the
triplets (the paper has none and starts from CLIP, which such a contrast has made). Only the hardest
of a batch's negatives contest a match, for else there would be nothing to mine.
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import SgmnLosses, Source, View
from training.models.sgmn.model import as_sgmn
from training.recipes.rice_text_small import GROCERY_TEXT_SMALL, RICE_TEXT_SMALL_SYNTH

_SGMN = replace(as_sgmn(RICE_TEXT_SMALL_SYNTH.model), instance_graph=False)

# What CLIP's weights are to the paper: words and sight in one space, learned from livestreams and
# from pictures and titles of shops that are made up step by step.
GUIDED_SMALL_SYNTH = replace(
    RICE_TEXT_SMALL_SYNTH,
    name="guided_small_synth",
    model=replace(_SGMN, frame_graph=False),
    sgmn=SgmnLosses(triplet=0.0, icl=1.0),
    talk=96,
    pictured_talk=True,
)
AS_IT_IS = View(
    scale=(1.0, 1.0), aspect=0.0, rotation=0.0, flip=0.0, brightness=0.0, contrast=0.0,
    saturation=0.0, tint=0.0, blur=0.0, erase=0.0,
)  # fmt: skip
"""Frames varied one by one would hide how one differs from the next."""

# Which frames show the product is learned from whole clips, and far more of them than what sees.
SGMN_SMALL_SYNTH = replace(
    RICE_TEXT_SMALL_SYNTH,
    name="sgmn_small_synth",
    model=_SGMN,
    sources=(replace(RICE_TEXT_SMALL_SYNTH.sources[0], frames=_SGMN.frames),),
    schedule=replace(
        RICE_TEXT_SMALL_SYNTH.schedule,
        steps=300,
        warmup=20,
        encoder_rate=0.0,
        decoder_rate=0.0,
        text_rate=3e-4,
        ema=0.98,
        evaluate_every=300,
    ),
    frame_view=AS_IT_IS,
    tail_cut=0.1,
    sgmn=SgmnLosses(triplet=0.0, guidance=0.0, icl=1.0),
)

GROCERY_SGMN_SMALL = replace(
    GROCERY_TEXT_SMALL,
    name="grocery_sgmn_small",
    model=as_sgmn(GROCERY_TEXT_SMALL.model),
    schedule=replace(
        GROCERY_TEXT_SMALL.schedule,
        steps=60,
        warmup=10,
        text_rate=1e-4,
        matching_rate=1e-4,
        ema=0.95,
        evaluate_every=60,
    ),
    hard_negatives=15,
    mining_text=0.5,
    sgmn=SgmnLosses(icl=1.0),
    talk=0,
)

# Of the model that is shipped, beside its detector: nothing but which of the found frames count.
SGMN_LIVE_SMALL = replace(
    GROCERY_TEXT_SMALL,
    name="sgmn_live_small",
    model=replace(
        as_sgmn(GROCERY_TEXT_SMALL.model),
        text_guidance=False,
        instance_graph=False,
        frame_width=128,
        frame_heads=4,
        detected=True,
    ),
    sources=(
        Source("grocery", "photographs", products=1),  # to be judged on
        Source("synth", "lpr4m", products=96, frames=10),
    ),
    schedule=replace(
        GROCERY_TEXT_SMALL.schedule,
        steps=1600,
        warmup=50,
        matching_rate=5e-4,
        weight_decay=0.1,
        evaluate_every=1600,
    ),
    sgmn=SgmnLosses(icl=0.5),
    talk=0,
    cycle=None,
)
