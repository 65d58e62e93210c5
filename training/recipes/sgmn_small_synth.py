"""A small SGMN from nothing on LPR-Synth, with its titles and what is said in its livestreams.

    lpr-train data synth --out DIR --clips 20000 --size 128
    lpr-train fit sgmn_small_synth --data synth=DIR --out RUN
    lpr-train ablate sgmn_small_synth --data synth=DIR --out RUNS --report docs

Data, encoder and schedule are `rice_small_synth`'s, so that the two compare. The text tower is a
small one, trained along. Triplets alone are a weak start from random weights: RICE's contrast
stands beside them (the paper starts from CLIP, which such a contrast has made). Only the 15
hardest of a batch's 47 negatives contest a match, for else there would be nothing to mine.
"""

from __future__ import annotations

from dataclasses import fields, replace

from training.configs import SgmnLosses
from training.models.rice import RiceConfig
from training.models.sgmn.model import SgmnConfig
from training.models.text import TextConfig
from training.recipes.rice_small_synth import RICE_SMALL_SYNTH

_RICE = {field.name: getattr(RICE_SMALL_SYNTH.model, field.name) for field in fields(RiceConfig)}

SGMN_SMALL_SYNTH = replace(
    RICE_SMALL_SYNTH,
    name="sgmn_small_synth",
    model=SgmnConfig(**_RICE | {"text": TextConfig()}),
    schedule=replace(RICE_SMALL_SYNTH.schedule, text_rate=1e-3),
    hard_negatives=15,
    mining_text=0.5,
    sgmn=SgmnLosses(icl=1.0),
)
