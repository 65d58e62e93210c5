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
from tests.faults.report import Report, Row
from tests.faults.scale import Scale
from tests.integration.material import Shop, make_shop
from tests.service.media.material import stub

_FULL_TIMEOUT_S = 1_800
_report = Report()
_FOLDER = Path(__file__).parent

Record = Callable[[str, str, str, str], None]
Serve = Callable[..., Served]
StubFfmpeg = Callable[[str], dict[str, object]]


@pytest.fixture(scope="session")
def scale() -> Scale:
    return scales.asked_for()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """`record(promise, asked, result, setting)`: a row of the report, before it is asserted."""

    def add(promise: str, asked: str, result: str, setting: str) -> None:
        _report.rows.append(Row(request.node.nodeid, promise, asked, result, setting))

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
    """`stub_ffmpeg(script)`: settings of a service whose decoder does that with every clip."""
    return lambda script: {"IMAGEIO_FFMPEG_EXE": stub(tmp_path, script)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if _FOLDER in item.path.parents]
    if scales.asked_for().full:
        for item in ours:
            item.add_marker(pytest.mark.timeout(_FULL_TIMEOUT_S))
        return
    left_out = [item for item in ours if item.get_closest_marker("full")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    if outcome.failed:
        _report.failed.add(item.nodeid)
    elif outcome.skipped:
        _report.skipped[item.nodeid] = str(outcome.longrepr[-1])
    return outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for row in _report.rows:
        terminalreporter.write_line(f"{row.promise} ({row.setting}): {row.result}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Only a full run of the whole folder says anything worth keeping."""
    config = session.config
    whole = all(
        (config.rootpath / word).resolve() in (_FOLDER, *_FOLDER.parents) for word in config.args
    )
    chosen = config.option.keyword or config.option.markexpr
    cut_short = session.shouldstop or session.shouldfail
    if scales.asked_for().full and whole and not chosen and not cut_short and _report.rows:
        _report.write()
