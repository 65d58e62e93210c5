"""Fixtures of the fault suite: its scale, its records, and services that a test may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.inference.bundle import Bundle
from service.settings import DEFAULT_BUNDLE
from tests.faults import scale as scales
from tests.faults.processes import Served
from tests.faults.report import Outcome, Report, Row
from tests.faults.scale import Scale
from tests.integration.material import Shop, make_shop
from tests.service.media.material import stub

_FULL_TIMEOUT_S = 1_800
_ROW = "row"
_FOLDER = Path(__file__).parent

Record = Callable[[str, str, str, str], None]
Serve = Callable[..., Served]
StubFfmpeg = Callable[[str], dict[str, object]]


@pytest.fixture(scope="session")
def scale() -> Scale:
    return scales.asked_for()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """`record(promise, asked, result, setting)`: a row of the report, before it is asserted.

    It travels with the test's own report, so it comes from another process too.
    """

    def add(promise: str, asked: str, result: str, setting: str) -> None:
        request.node.user_properties.append((_ROW, (promise, asked, result, setting)))

    return add


@pytest.fixture(scope="session")
def shop() -> Shop:
    return make_shop()


@pytest.fixture(scope="session")
def default_bundle() -> Path:
    """The bundle that is shipped: where a figure depends on how long the model takes."""
    Bundle.load(DEFAULT_BUNDLE)
    return DEFAULT_BUNDLE


@pytest.fixture
def serve(tiny_bundle: Path, tmp_path: Path) -> Iterator[Serve]:
    """`serve(name="data", **settings)`: a ready service of its own; stopped after the test."""
    with ExitStack() as running:

        def start(name: str = "data", **settings: object) -> Served:
            defaults: dict[str, object] = {"LPR_BUNDLE": tiny_bundle, "LPR_DRAIN_S": 0}
            return running.enter_context(Served(tmp_path / name, **(defaults | settings)))

        yield start


@pytest.fixture
def stub_ffmpeg(tmp_path: Path) -> StubFfmpeg:
    """`stub_ffmpeg(script)`: settings of a service whose ffmpeg does that with every clip.

    Workers leave it the clips that are `cut_short`.
    """
    return lambda script: {"IMAGEIO_FFMPEG_EXE": stub(tmp_path, script)}


def cut_short(clip: bytes) -> bytes:
    return clip[: len(clip) // 2]


def pytest_configure(config: pytest.Config) -> None:
    if not _is_worker(config):
        config.pluginmanager.register(Reporter(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if _FOLDER in item.path.parents]
    if scales.asked_for().full:
        for item in ours:
            item.add_marker(pytest.mark.timeout(_FULL_TIMEOUT_S))
        if _is_whole(config) and _is_first(config):
            Report().expect(item.nodeid for item in ours)
        return
    left_out = [item for item in ours if item.get_closest_marker("full")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


class Reporter:
    """Tells each row as soon as its test has ended, and keeps those of a full run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._running: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        outcome = self._running.setdefault(test, Outcome(test, "passed"))
        outcome.seconds += report.duration
        if report.failed:
            outcome.word, outcome.why = "failed", _last_words(report)
        elif report.skipped:
            outcome.word, outcome.why = "skipped", str(report.longrepr[-1])
        if report.when == "teardown":
            outcome.rows = [row for name, row in report.user_properties if name == _ROW]
            self._tell(self._running.pop(test))

    def pytest_sessionfinish(self) -> None:
        """What was still running, because the run or a worker of it was ended, did not pass."""
        for test, outcome in self._running.items():
            self._tell(Outcome(test, "failed", outcome.why or "it was cut short"))

    def _tell(self, outcome: Outcome) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        rows = [Row(*row) for row in outcome.rows]
        for row in rows:
            line = f"{row.promise} ({row.setting}): {row.result}"
            terminal.write_line(f"\n{line} [{outcome.word}, {outcome.seconds:.0f} s]")
        report = Report()
        if scales.asked_for().full and outcome.test in report:
            outcome.rows = rows
            report.add(outcome)
            report.write()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _is_first(config: pytest.Config) -> bool:
    return getattr(config, "workerinput", {}).get("workerid", "gw0") == "gw0"


def _is_whole(config: pytest.Config) -> bool:
    return all(
        (config.rootpath / word).resolve() in (_FOLDER, *_FOLDER.parents) for word in config.args
    )


def _last_words(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)[:300]
