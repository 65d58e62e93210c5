from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.cores import cores


@pytest.fixture(autouse=True)
def machine_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def told(folder: Path, group: str, **quotas: str) -> int:
    """By control groups below `folder`; `quotas` by the group's name, "root" the outermost."""
    own, groups = folder / "self", folder / "groups"
    own.write_text(f"3:cpuset:/\n0::{group}\n")
    for name, quota in quotas.items():
        at = groups if name == "root" else groups / name.replace("_", "/")
        at.mkdir(parents=True, exist_ok=True)
        (at / "cpu.max").write_text(f"{quota}\n")
    return cores(groups, own)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("400000 100000", 4),
        ("250000 100000", 3),
        ("5000 100000", 1),
        ("1600000 100000", 8),
        ("max 100000", 8),
        ("", 8),
        ("many", 8),
    ],
)
def test_a_containers_quota_counts(tmp_path: Path, quota: str, expected: int) -> None:
    assert told(tmp_path, "/", root=quota) == expected


def test_the_narrowest_group_counts(tmp_path: Path) -> None:
    groups = {"root": "max 100000", "a": "200000 100000", "a_b": "500000 100000"}
    assert told(tmp_path, "/a/b", **groups) == 2
    assert told(tmp_path, "/elsewhere", **groups) == 8


def test_without_control_groups_it_is_the_cores_that_it_may_run_on(tmp_path: Path) -> None:
    assert cores(tmp_path, tmp_path / "missing") == 8
    (tmp_path / "old").write_text("4:cpu:/\n")
    assert cores(tmp_path, tmp_path / "old") == 8
