"""One pass scores clips by all that is heard of them, and looks at each of them once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.tiny import CONFIG
from tests.training.tiny_hearings import assert_one_pass_is_many, spoken_queries
from tests.training.tiny_sgmn import (
    SGMN_CONFIG,
    TEXT,
    tiny_sgmn,
    tiny_tokenizer,
    titled_photographs,
)
from training.data.frames import Frame
from training.data.queries import QuerySet
from training.data.sets import JudgedSet
from training.evaluation.hearings import HEARINGS, Hearing
from training.evaluation.protocol import score
from training.evaluation.scorers import TorchScorer
from training.models.detector import ClipDetector, DetectorConfig
from training.models.looking import Looking
from training.models.rice import Rice
from training.models.sgmn.model import Sgmn

DATA: dict[str, JudgedSet] = {"photographs": titled_photographs(), "queries": spoken_queries()}
CLIPS = {"photographs": 10, "queries": 7}
"""Of those that have frames."""


def models() -> dict[str, Rice]:
    torch.manual_seed(0)
    silent = replace(SGMN_CONFIG, text_tokens=False)
    return {
        "decodes speech": Rice(replace(CONFIG, text=TEXT)),
        "matches by sight": Rice(replace(CONFIG, text=TEXT, text_tokens=False)),
        "guided by speech": tiny_sgmn(),
        "guided, matches by sight": tiny_sgmn(replace(silent, frame_graph=False)),
        "guided to the frames it matches": certain(tiny_sgmn(silent)),
    }


def certain(model: Sgmn) -> Sgmn:
    """That some frames show the product, and that others do not."""
    assert model.frame_graph is not None
    with torch.no_grad():
        model.frame_graph.show.weight *= 100
    return model


def looking() -> Looking:
    torch.manual_seed(1)
    config = DetectorConfig(
        image_size=32, patch_size=8, width=32, heads=2, encoder_layers=1, queries=4
    )
    return Looking(ClipDetector(config).eval(), 0.5, CONFIG.encoder, closer=True)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", models())
def test_one_pass_gives_exactly_the_scores_of_a_pass_a_hearing(name: str, data: str) -> None:
    found = assert_one_pass_is_many(TorchScorer(models()[name], tiny_tokenizer()), DATA[data])
    right, missing = found["right"], found["missing"]
    assert torch.equal(right.match, missing.match) == ("by sight" in name)
    assert torch.equal(right.coarse, missing.coarse) == ("guided" not in name)
    assert right.text is not None and missing.text is None


def test_one_pass_of_what_reads_nothing_or_sees_boxes_is_the_same_too() -> None:
    model, data = models()["decodes speech"], titled_photographs()
    assert_one_pass_is_many(TorchScorer(model), data)
    assert_one_pass_is_many(TorchScorer(model, tiny_tokenizer(), looking()), data)

    def boxes(frames: Sequence[Frame]) -> Tensor:
        return torch.tensor([0, 0, 0.3, 0.3]).expand(len(frames), 1, 4)

    scorer = TorchScorer(model, tiny_tokenizer())
    assert_one_pass_is_many(scorer, data, takes=2, boxes=boxes)


def work(name: str, data: JudgedSet, hearings: Sequence[Hearing]) -> Counter[str]:
    """How many pictures and frames are encoded; how often the rest is done, each once a clip, or a
    picture of a shop."""
    done: Counter[str] = Counter()

    def counting(what: str, does: Callable[..., Any]) -> Callable[..., Any]:
        def counted(first: Any, *others: Any) -> Any:
            done[what] += len(first) if what == "encoded" else 1
            return does(first, *others)

        return counted

    model, looks = models()[name], looking()
    model.encode = counting("encoded", model.encode)  # type: ignore[method-assign]
    model.decoder.match = counting("matched", model.decoder.match)  # type: ignore[method-assign]
    looks.forward = counting("detected", looks.forward)  # type: ignore[method-assign]
    if isinstance(data, QuerySet):
        read_picture = counting("read", data.read_picture)
        read_frames = counting("read", data.read_frames)
        data = replace(data, read_picture=read_picture, read_frames=read_frames)
    scorer = TorchScorer(model, tiny_tokenizer(), looks)
    score(scorer, data, hearings=hearings, done=lambda: done.update(["clips"]))
    return done


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", models())
def test_shops_and_clips_are_looked_at_once_whatever_is_heard(name: str, data: str) -> None:
    once, together = (work(name, DATA[data], heard) for heard in (["right"], HEARINGS))
    assert together["detected"] == CLIPS[data] and together["encoded"] > CLIPS[data]
    matched = together.pop("matched")
    assert once.pop("matched") == CLIPS[data]
    assert matched == CLIPS[data] if "by sight" in name else matched > CLIPS[data]
    assert once == together
