"""The sessions of a bundle's graphs: run, run in halves where memory is short, opened again.

A run that fails is tried with half the batch, down to one. If that fails too, a trial of ordinary
size says whether it was the input or the sessions (a GPU without memory, a provider in disorder);
those are dropped and opened again on a thread of their own, until they run, and meanwhile every run
is refused at once. Knows nothing of what the graphs compute.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

import numpy as np

from service.errors import InferenceError, StartupError
from service.inference.session import Array, Session

logger = logging.getLogger(__name__)

_REST_S = 1.0  # between attempts to open them again


class Graphs:
    """Safe to share between threads."""

    def __init__(
        self,
        open_sessions: Callable[[], Mapping[str, Session]],
        trial: Callable[[Mapping[str, Session]], None],
    ) -> None:
        """`open_sessions` gives a session a graph, by name; `trial` raises InferenceError where
        sessions do not run. Raises as `Session` does.
        """
        self._open = open_sessions
        self._trial = trial
        self._sessions: Mapping[str, Session] | None = open_sessions()
        self._in_doubt = threading.Lock()  # held by whoever tries them, or opens them again
        self.providers: list[str] = next(iter(self._sessions.values())).providers

    @property
    def are_open(self) -> bool:
        """False while they are opened again."""
        return self._sessions is not None

    def run(self, graph: str, **inputs: Array) -> list[Array]:
        """Outputs in the manifest's order. Raises InferenceError."""
        sessions = self._current()
        try:
            return sessions[graph].run(**inputs)
        except InferenceError as error:
            self._doubt(sessions, error)
            raise

    def run_batch(
        self, graph: str, batch: Mapping[str, Array], shared: Mapping[str, Array] | None = None
    ) -> list[Array]:
        """The same for inputs `batch`, which have one row an item, and `shared`, which have not."""
        rows = len(next(iter(batch.values())))
        sessions = self._current()
        try:
            return sessions[graph].run(**batch, **(shared or {}))
        except InferenceError as error:
            if rows <= 1:
                self._doubt(sessions, error)
                raise
            logger.warning("a batch of %d is run in halves: %s", rows, error.__cause__ or error)
        halves = [
            self.run_batch(graph, {name: array[part] for name, array in batch.items()}, shared)
            for part in (slice(rows // 2), slice(rows // 2, None))
        ]
        return [np.concatenate(pair) for pair in zip(*halves, strict=True)]

    def _current(self) -> Mapping[str, Session]:
        sessions = self._sessions
        if sessions is None:
            raise InferenceError("the model is started again; try again in a moment")
        return sessions

    def _doubt(self, failed: Mapping[str, Session], error: InferenceError) -> None:
        if not self._in_doubt.acquire(blocking=False):
            return
        if self._sessions is not failed:  # it failed before they were opened again
            self._in_doubt.release()
            return
        logger.error("a run failed: %s", error.__cause__ or error)
        threading.Thread(target=self._settle_doubt, name="lpr-inference", daemon=True).start()

    def _settle_doubt(self) -> None:
        try:
            if self._sessions is not None and self._run_in_trial(self._sessions):
                return  # it was the input
            self._sessions = None  # first, or there would not be memory for others
            while (sessions := self._opened()) is None:
                threading.Event().wait(_REST_S)
            self._sessions = sessions
            logger.warning("inference runs again")
        finally:
            self._in_doubt.release()

    def _opened(self) -> Mapping[str, Session] | None:
        """New sessions that run; None where there can be none yet."""
        try:
            sessions = self._open()
        except StartupError as error:
            logger.error("inference cannot be started: %s", error)
            return None
        return sessions if self._run_in_trial(sessions) else None

    def _run_in_trial(self, sessions: Mapping[str, Session]) -> bool:
        try:
            self._trial(sessions)
        except InferenceError as error:
            logger.error("inference is started again: %s", error.__cause__ or error)
            return False
        return True
