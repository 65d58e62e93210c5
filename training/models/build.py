"""The model that a config describes: RICE or SGMN, behind the one interface of `Rice`."""

from __future__ import annotations

from training.models.rice import Rice, RiceConfig
from training.models.sgmn.model import Sgmn, SgmnConfig


def build_model(config: RiceConfig) -> Rice:
    """With random weights."""
    return Sgmn(config) if isinstance(config, SgmnConfig) else Rice(config)
