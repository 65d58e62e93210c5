"""What can go wrong in an export."""

from __future__ import annotations


class ExportError(Exception):
    """No bundle was written; says why."""
