"""What a source is opened as: to draw batches from, or to be scored on."""

from __future__ import annotations

from training.data.clip_sets import ClipSet
from training.data.photographs import PhotographSet
from training.data.queries import QuerySet

TrainingSet = PhotographSet | ClipSet
JudgedSet = PhotographSet | QuerySet
