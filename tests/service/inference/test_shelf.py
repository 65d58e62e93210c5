from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from service.errors import BundleError, BundleNotFoundError
from service.inference.manifest import read_manifest
from service.inference.shelf import Shelf
from tests.contract.bundles import copy_of, flip_byte


def test_a_folder_that_is_not_there_holds_none_but_the_default(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    found = Shelf(tiny_bundle, tmp_path / "none").look()
    bundle_id = read_manifest(tiny_bundle).bundle_id
    assert found.bundles.keys() == {bundle_id}
    assert not found.broken


def test_bundles_are_found_by_id_whatever_their_folder_is_called(
    tiny_bundle: Path, another_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(another_bundle, tmp_path / "whatever")
    shutil.copytree(tiny_bundle, tmp_path / "the default once more")
    shelf = Shelf(tiny_bundle, tmp_path)
    another_id = read_manifest(another_bundle).bundle_id
    assert shelf.look().bundles.keys() == {read_manifest(tiny_bundle).bundle_id, another_id}
    assert shelf.load(another_id).path == tmp_path / "whatever"
    with pytest.raises(BundleNotFoundError, match=f"{another_id}.*{tmp_path}"):
        shelf.load("whatever")  # which is its folder
    with pytest.raises(BundleNotFoundError, match=str(tmp_path)):
        shelf.load("../whatever")


def test_a_broken_one_is_told_of_and_hides_no_other(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = Shelf(tiny_bundle, tmp_path).look()
    assert found.broken.keys() == {str(tmp_path / "empty")}
    assert len(found.bundles) == 1


def test_one_that_was_changed_is_not_loaded(
    tiny_bundle: Path, another_bundle: Path, tmp_path: Path
) -> None:
    bundle = copy_of(another_bundle, tmp_path)
    flip_byte(bundle / "encoder.data", 100)
    with pytest.raises(BundleError, match="content differs"):
        Shelf(tiny_bundle, tmp_path).load(read_manifest(bundle).bundle_id)
