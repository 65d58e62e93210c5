r"""A small SGMN, with titles and what is said, on LPR-Synth and on groceries.

    lpr-train fit guided_small_synth --data synth=DIR --start SEES --out GUIDED
    lpr-train fit sgmn_small_synth --data synth=DIR --start GUIDED/best.safetensors --out RUN
    lpr-train fit grocery_sgmn_small --data grocery=DIR --data made=DIR --start READS --out RUN
    lpr-train ablate grocery_sgmn_small --data grocery=DIR --data made=DIR --start READS \
        --out RUNS --report docs

On livestreams all is trained together, beginning with GUIDED, whose words and sight are in one
space, and that with SEES, a checkpoint of `grocery_small_128`; RICE's contrast stands in the place
of triplets and instance graph, which flatten the embedding (docs/LOG.md), and all of a batch's
negatives contest a match: none is left to mine.

On groceries the encoder and decoder of READS, a checkpoint of `grocery_text_small`, stay locked:
guidance and graphs are trained, and text a little further. RICE's contrast stands beside the
triplets (the paper has none and starts from CLIP, which such a contrast has made). Only the hardest
of a batch's negatives contest a match, for else there would be nothing to mine.
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import SgmnLosses
from training.models.sgmn.model import as_sgmn
from training.recipes.rice_text_small import GROCERY_TEXT_SMALL, RICE_TEXT_SMALL_SYNTH

_SGMN = replace(as_sgmn(RICE_TEXT_SMALL_SYNTH.model), instance_graph=False)
SGMN_SMALL_SYNTH = replace(
    RICE_TEXT_SMALL_SYNTH,
    name="sgmn_small_synth",
    model=_SGMN,
    sgmn=SgmnLosses(triplet=0.0, icl=1.0),
)

# What CLIP's weights are to the paper: words and sight in one space, learned from livestreams and
# from pictures and titles of shops that are made up step by step. The ablation begins with it.
GUIDED_SMALL_SYNTH = replace(
    SGMN_SMALL_SYNTH,
    name="guided_small_synth",
    model=replace(_SGMN, frame_graph=False),
    talk=96,
    pictured_talk=True,
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
