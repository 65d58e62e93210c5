"""Which bundle this replica serves, and another put in its place while requests go on.

A bundle and all that depends on it are one unit, `Serving`. A request takes the active one when it
begins and stays with it; so does a write, which then follows into the index of every other bundle
that is kept. The durable record of roles says which those are, and every replica does what it says
within seconds:

1. `activate` verifies and opens a bundle and records it as coming. From then on each write reaches
   its index too, for a write looks at the record after it has changed the catalogue.
2. One replica fills the index from the catalogue. A write that did not see the record yet was in
   the catalogue before, so nothing is left out.
3. When both agree, and every replica has the bundle open, so that its writes reach it, the record
   says that it is active. Whoever reads that switches over; the one before is still kept, so going
   back is the same step again, without the filling.

A replica that dies in the middle leaves the record as it is: it, or another, goes on from there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.coordination.filling import Filling, Progress
from service.coordination.replicas import Replicas
from service.errors import (
    BundleError,
    BundleInUseError,
    BundleNotFoundError,
    BundleRefusedError,
    InferenceError,
    LPRError,
    NoPreviousBundleError,
    StartupError,
    UnavailableError,
)
from service.gallery.index import VectorIndex
from service.gallery.roles import Roles, RolesRecord
from service.gallery.shops import HotShops
from service.inference.bundle import Bundle
from service.inference.manifest import Manifest
from service.inference.model import Model
from service.inference.shelf import Shelf
from service.recognition import Recognizer
from service.settling import Kept, Projection, Settler

logger = logging.getLogger(__name__)

_FOLLOW_S = 2.0  # between looks at the record
_WAIT_S = 30.0  # for other replicas to open a bundle that is filled
_GIVE_UP_S = 300.0  # that the previous bundle cannot be opened on some replica


@dataclass(frozen=True)
class Serving:
    """All that depends on a bundle."""

    model: Model
    index: VectorIndex
    shops: HotShops
    recognizer: Recognizer
    projection: Projection

    @property
    def bundle_id(self) -> str:
        return self.model.manifest.bundle_id


@dataclass(frozen=True)
class BundleState:
    bundle_id: str
    role: Literal["active", "previous", "coming", "available"]
    manifest: Manifest | None  # None: it is not on this replica's shelf
    progress: Progress | None  # of one that is being filled


@dataclass(frozen=True)
class State:
    serving: str  # the bundle that this replica answers with
    bundles: list[BundleState]
    broken: dict[str, str]  # what is wrong with a folder of the shelf


class Bundles:
    """Safe to share between threads."""

    def __init__(
        self,
        record: RolesRecord,
        shelf: Shelf,
        filling: Filling,
        replicas: Replicas,
        *,
        open_bundle: Callable[[Bundle], Serving],
        on_switch: Callable[[Serving], None],
        alone: bool,
    ) -> None:
        """`alone`: no other service has the same index. `on_switch` is told what is active now."""
        self._record = record
        self._shelf = shelf
        self._filling = filling
        self._replicas = replicas
        self._open_bundle = open_bundle
        self._on_switch = on_switch
        self._alone = alone
        self._open: dict[str, Serving] = {}
        self._in_step: set[str] = set()  # of those: their index agreed, and is kept so since
        self._serving: Serving | None = None
        self._has_alias = False  # what is served
        self._filled_at: dict[str, float] = {}  # when a coming bundle's index first agreed
        self._missed_at: dict[str, float] = {}  # when a bundle first could not be opened
        self._changing = threading.RLock()  # what is open, and the record
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.is_behind = False  # another bundle is active than this replica can serve

    @property
    def serving(self) -> Serving:
        """What this replica answers with; stays whole for who has it, whatever takes its place."""
        assert self._serving is not None, "open_active comes first"  # noqa: S101
        return self._serving

    @property
    def active(self) -> Projection:
        return self.serving.projection

    def kept(self) -> Kept:
        """Where a write must reach that is in the catalogue already."""
        roles = self._record.read()
        is_open = self._open
        there = [is_open[name].projection for name in roles.kept if name in is_open]
        return Kept(there, complete=len(there) == len(roles.kept))

    def open_active(self) -> None:
        """Open the bundle that is to be served. Raises StartupError, UnavailableError."""
        with self._changing:
            roles = self._record.read() if self._alone else self._record.opened()
            default = self._record.default
            if roles.active != default:
                names = {"bundle": roles.active, "default": default}
                logger.warning("another bundle is active than LPR_BUNDLE names", extra=names)
            try:
                self._switch(self._take(roles.active))
            except BundleNotFoundError as error:
                raise StartupError(
                    f"{error.detail}, for it is the one that is active; LPR_BUNDLE alone changes "
                    "nothing once one was activated, or where services share a catalogue: activate "
                    "the new bundle"
                ) from error

    def state(self) -> State:
        """Raises UnavailableError."""
        roles, shelved = self._record.read(), self._shelf.look()
        names = [*roles.kept, *(name for name in shelved.bundles if name not in roles.kept)]
        return State(
            serving=self.serving.bundle_id,
            bundles=[
                BundleState(
                    bundle_id=name,
                    role=_role(roles, name),
                    manifest=shelved.bundles[name][1] if name in shelved.bundles else None,
                    progress=self._filling.progress(name) if name == roles.coming else None,
                )
                for name in names
            ],
            broken=shelved.broken,
        )

    def activate(self, bundle_id: str) -> State:
        """Begin to put a bundle in the place of the active one; done at once for the previous one.

        Raises BundleNotFoundError, BundleRefusedError, UnavailableError.
        """
        with self._changing:
            self._take_asked(bundle_id)
            if bundle_id == self._record.read().previous and self._is_in_step(bundle_id):
                self._take_over(bundle_id)
            else:
                self._change(
                    lambda now: (
                        now if bundle_id in (now.active, now.coming) else now.activating(bundle_id)
                    )
                )
                self._tell_open()
        self._wake.set()
        return self.state()

    def go_back(self) -> State:
        """Activate the previous bundle. Raises NoPreviousBundleError, and what `activate` does."""
        previous = self._record.read().previous
        if previous is None:
            raise NoPreviousBundleError("no bundle is kept to go back to")
        return self.activate(previous)

    def drop(self, bundle_id: str) -> None:
        """Keep a bundle no longer. Raises BundleInUseError, BundleNotFoundError."""

        def dropping(now: Roles) -> Roles:
            if bundle_id == now.active:
                raise BundleInUseError("this bundle is active; activate another one first")
            if bundle_id not in now.kept:
                raise BundleNotFoundError(f"no index of a bundle {bundle_id!r} is kept")
            return now.without(bundle_id)

        with self._changing:
            self._change(dropping)

    def keep_in_step(self, settler: Settler) -> None:
        """Follow the record, and fill what is to be filled; returns after `stop`."""
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.step(settler)
            except LPRError as error:
                logger.warning("the bundles are looked after later: %s", error)
            self._wake.wait(_FOLLOW_S)

    def step(self, settler: Settler) -> None:
        """Raises UnavailableError, StorageFullError, StartupError."""
        roles = self.follow()
        for name in (roles.previous, roles.coming):
            serving = self._open.get(name) if name is not None else None
            if serving is not None and not self._is_in_step(serving.bundle_id):
                self._fill(serving, settler)

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def follow(self) -> Roles:
        """Open what the record names, serve what it says, let go of the rest."""
        with self._changing:
            roles = self._record.read()
            for name in roles.kept:
                self._open_kept(roles, name)
            active = self._open.get(roles.active)
            self.is_behind = active is None
            if active is not None and active is not self._serving:
                self._switch(active)
            self._let_go(set(self._open) - {*roles.kept, self.serving.bundle_id})
            self._take_alias()
            self._tell_open()
            return roles

    def _open_kept(self, roles: Roles, name: str) -> None:
        try:
            self._take(name)
            self._missed_at.pop(name, None)
        except (BundleNotFoundError, BundleError) as error:
            logger.error("a bundle cannot be opened: %s", error, extra={"role": _role(roles, name)})
            missed_at = self._missed_at.setdefault(name, time.monotonic())
            # A replica's volume may stutter, and the others need the way back; but without an end
            # no write would ever be done with.
            is_gone = self._alone or time.monotonic() - missed_at >= _GIVE_UP_S
            if name == roles.previous and is_gone:
                self._change(lambda now: now.without(name) if name == now.previous else now)

    def _take(self, bundle_id: str) -> Serving:
        """Raises BundleNotFoundError, StartupError."""
        serving = self._open.get(bundle_id)
        if serving is None:
            serving = self._open_bundle(self._shelf.load(bundle_id))
            self._open = self._open | {bundle_id: serving}
        return serving

    def _take_asked(self, bundle_id: str) -> None:
        try:
            self._take(bundle_id)
        except BundleError as error:
            raise BundleRefusedError(error.detail) from error
        except StartupError as error:
            raise UnavailableError(error.detail) from error

    def _let_go(self, names: set[str]) -> None:
        self._open = {name: it for name, it in self._open.items() if name not in names}
        self._in_step -= names
        for name in names:
            self._filled_at.pop(name, None)

    def _fill(self, serving: Serving, settler: Settler) -> None:
        """Bring an index into agreement; where it is the coming bundle's, it takes over."""
        name = serving.bundle_id

        def goes_on(done: int, of: int) -> bool:
            ours = self._filling.claim(name, Progress(done, of)) or self._alone
            return ours and not self._stopping.is_set() and name in self._record.read().kept

        kept_out = settler.agree(serving.projection, goes_on)
        if kept_out is None:
            return
        for error in kept_out:
            if isinstance(error, InferenceError):  # the catalogue is not at fault: it must not lead
                raise error
        if name == self._record.read().coming and not self._is_open_everywhere(name):
            return
        settler.settle_durable()  # what was written by who had not opened it yet
        with self._changing:
            self._in_step.add(name)
            if self._record.read().coming == name:
                self._take_over(name)
        self._filling.end(name)

    def _is_open_everywhere(self, name: str) -> bool:
        """Whether all writes reach it; a replica that never opens it is not waited for for ever."""
        if self._alone or self._replicas.all_have(name):
            return True
        since = self._filled_at.setdefault(name, time.monotonic())
        if time.monotonic() - since < _WAIT_S:
            return False
        logger.warning("a bundle takes over that is not known to be open on every replica")
        return True

    def _tell_open(self) -> None:
        if not self._alone:
            self._replicas.tell(self._open)

    def _take_over(self, bundle_id: str) -> None:
        self._change(
            lambda now: (
                now.taken_over(bundle_id) if bundle_id in (now.coming, now.previous) else now
            )
        )
        self.follow()

    def _change(self, change: Callable[[Roles], Roles]) -> None:
        """Change the record; the index of who is kept no longer goes."""
        before, after = self._record.change(change)
        gone = set(before.kept) - set(after.kept)
        for name in gone & set(self._open):
            try:
                self._open[name].index.drop()
            except UnavailableError as error:
                logger.warning("an index that nobody needs is still there: %s", error)
        self._let_go(gone)

    def _switch(self, serving: Serving) -> None:
        before, self._serving = self._serving, serving
        self._has_alias = False
        self._in_step.add(serving.bundle_id)
        self._on_switch(serving)
        if before is not None:
            before.shops.clear()

    def _take_alias(self) -> None:
        """Nothing here goes by it, so it is in no hurry."""
        index = self.serving.index
        if not (self._has_alias or index.is_filling):
            try:
                index.take_alias()
                self._has_alias = True
            except UnavailableError as error:
                logger.warning("the alias leads to another bundle's index: %s", error)

    def _is_in_step(self, name: str) -> bool:
        """Whether its index agrees; one that Milvus has lost does no longer."""
        return name in self._in_step and not self._open[name].index.is_filling


def _role(roles: Roles, name: str) -> Literal["active", "previous", "coming", "available"]:
    if name == roles.active:
        return "active"
    if name == roles.previous:
        return "previous"
    return "coming" if name == roles.coming else "available"
