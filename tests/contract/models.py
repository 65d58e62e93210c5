"""Random models for the tests, and their export with made-up figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from training.data.tokenizing import TextTokenizer, train_tokenizer
from training.data.transforms import normalise
from training.export.bundle import export_bundle
from training.export.precision import Precision
from training.export.wrappers import Detector
from training.models.detector import ClipDetector, DetectorConfig, best_of_frame
from training.models.encoder import EncoderConfig
from training.models.rice import Rice, RiceConfig
from training.models.text import TextConfig

Model = TypeVar("Model", bound=Rice)

TINY = RiceConfig(
    encoder=EncoderConfig(
        image_size=32,
        patch_size=8,
        width=48,
        layers=2,
        heads=4,
        embedding=24,
        stem="conv",
        stem_depth=2,
    ),
    frames=10,
    matching_heads=4,
)
TEXT = TextConfig(vocabulary=512, width=32, layers=2, heads=2, max_tokens=12, embedding=20)
TEXT_FUSION = {"weight": 2.0, "scale": 16.0, "doubt": 0.2}
TITLES = ["red apple juice", "", "Красное 香蕉", "blue milk " * 100]


def random_rice(config: RiceConfig, seed: int = 0) -> Rice:
    torch.manual_seed(seed)
    return widened(Rice(config))


def widened(model: Model) -> Model:
    """In evaluation mode, with weights wide enough that different pictures get different vectors.

    BatchNorms have statistics, as after training, so that folding shows.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 2.0 / module.in_features**0.5)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model.eval()


def tiny_rice() -> Rice:
    return random_rice(TINY)


def another_rice() -> Rice:
    """With shorter vectors than `tiny_rice`'s."""
    return random_rice(replace(TINY, encoder=replace(TINY.encoder, embedding=16)), seed=1)


def tiny_detector(*, closer: bool = False) -> Detector:
    """Of clips; random, with scores on both sides of its threshold."""
    torch.manual_seed(0)
    model = ClipDetector(
        DetectorConfig(
            image_size=TINY.encoder.image_size, patch_size=8, width=32, heads=2, encoder_layers=1,
            queries=4, temporal_layers=1,
        )
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        if "box.4.weight" in name:
            nn.init.normal_(parameter, 0.0, 0.05)
        elif "score.weight" in name or "change.weight" in name:
            nn.init.normal_(parameter, 0.0, 0.3)
    noise = np.random.default_rng(5).integers(0, 256, (1, TINY.frames, 32, 32, 3), dtype=np.uint8)
    frame_mask = torch.ones(1, TINY.frames, dtype=torch.bool)
    with torch.inference_mode():
        found = model.eval()(normalise(torch.from_numpy(noise)), frame_mask)
    threshold = round(float(best_of_frame(found)[1].median()) + 1e-3, 4)
    return Detector(model, threshold, closer)


def export_tiny(
    model: Rice, out: Path, precision: Precision = "fp32", detector: Detector | None = None
) -> Path:
    return export_bundle(
        model,
        out,
        name="rice-tiny-random",
        recipe="tiny_random",
        fusion={"coarse": 1.0, "match": 0.1},
        calibration={"temperature": 0.1, "none_logit": 5.0, "threshold": 0.5},
        metrics={"protocol": "none: random weights"},
        precision=precision,
        detector=detector,
    )


def reading_rice() -> Rice:
    return random_rice(replace(TINY, text=TEXT))


def tokenizer() -> TextTokenizer:
    return TextTokenizer(train_tokenizer(TITLES, TEXT.vocabulary), TEXT.max_tokens)


def export_reading(
    out: Path, precision: Precision = "fp32", detector: Detector | None = None
) -> Path:
    """`reading_rice`; what is said weighs more than what is seen."""
    return export_bundle(
        reading_rice(),
        out,
        name="rice-tiny-reading",
        recipe="tiny_reading",
        fusion={"coarse": 1.0, "match": 0.1, "text": TEXT_FUSION},
        calibration={"temperature": 0.1, "none_logit": 5.0, "threshold": 0.5},
        metrics={"protocol": "none: random weights"},
        tokenizer=tokenizer(),
        precision=precision,
        detector=detector,
    )
