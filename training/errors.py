"""What can go wrong: one tree, so that a command can tell of any of it without knowing which.

Every foreign exception (torch's, safetensors', Pillow's, onnxruntime's) becomes one of these where
it is caught. The rooms name their own kinds beside what raises them.
"""

from __future__ import annotations


class TrainingError(Exception):
    """What was given cannot be used; the message says what and why."""
