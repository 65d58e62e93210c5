"""What can go wrong in an export."""

from __future__ import annotations

from training.errors import TrainingError


class ExportError(TrainingError):
    """No bundle was written; says why."""
