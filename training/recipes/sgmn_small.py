r"""A small SGMN, with titles and what is said, on LPR-Synth and on groceries.

    lpr-train fit sgmn_small_synth --data synth=DIR --start READS --out RUN
    lpr-train fit grocery_sgmn_small --data grocery=DIR --data made=DIR --start READS --out RUN
    lpr-train ablate grocery_sgmn_small --data grocery=DIR --data made=DIR --start READS \
        --out RUNS --report docs

READS is a checkpoint of `rice_text_small_synth` or `grocery_text_small`, whose encoder and decoder
stay locked: guidance and graphs are trained, and text a little further. RICE's contrast stands
beside the triplets (the paper has none and starts from CLIP, which such a contrast has made). Only
the hardest of a batch's negatives contest a match, for else there would be nothing to mine.
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import Recipe, SgmnLosses
from training.models.sgmn.model import as_sgmn
from training.recipes.rice_text_small import GROCERY_TEXT_SMALL, RICE_TEXT_SMALL_SYNTH


def _sgmn(recipe: Recipe, name: str) -> Recipe:
    """Of a recipe of RICE that reads."""
    return replace(
        recipe,
        name=name,
        model=as_sgmn(recipe.model),
        schedule=replace(
            recipe.schedule,
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


SGMN_SMALL_SYNTH = _sgmn(RICE_TEXT_SMALL_SYNTH, "sgmn_small_synth")
GROCERY_SGMN_SMALL = _sgmn(GROCERY_TEXT_SMALL, "grocery_sgmn_small")
