"""What can be wrong with training data."""

from __future__ import annotations

from training.errors import TrainingError


class DataError(TrainingError):
    """Data is not what it should be; the message names the file and, if there is one, the line."""
