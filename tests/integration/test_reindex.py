"""`lpr reindex` over a stopped service's data directory, and beside a running one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from service.gallery.catalogue import product_folder
from service.launch import running_service
from tests.integration.material import Shop


def reindex(data_dir: Path, bundle: Path, *arguments: str) -> CompletedProcess[str]:
    """In a process of its own, for Milvus Lite keeps what it has in this one."""
    return subprocess.run(
        [sys.executable, "-m", "service", "reindex", *arguments],
        env=os.environ | {"LPR_DATA_DIR": str(data_dir), "LPR_BUNDLE": str(bundle)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def data_dir(tiny_bundle: Path, tmp_path: Path, shop: Shop) -> Path:
    """Of a service that was stopped, with two shops in it."""
    with running_service(tmp_path, LPR_BUNDLE=tiny_bundle, LPR_DRAIN_S=0) as client:
        for name, jpeg in shop.pictures.items():
            client.put_product("one", name, [jpeg])
        client.put_product("two", "p", [shop.pictures["product-0"]])
    return tmp_path


def test_a_lost_index_is_verified_rebuilt_and_verified(data_dir: Path, tiny_bundle: Path) -> None:
    agreed = reindex(data_dir, tiny_bundle, "--verify")
    assert agreed.returncode == 0
    assert agreed.stdout == "The index agrees with the catalogue: 7 products in 2 shops.\n"
    shutil.rmtree(data_dir / "milvus.db")
    lost = reindex(data_dir, tiny_bundle, "--verify", "--shop", "two")
    assert lost.returncode == 1
    assert lost.stdout == "two / p\nThe index differs from the catalogue about 1 product.\n"
    rebuilt = reindex(data_dir, tiny_bundle, "--shop", "two")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert "1 product indexed" in rebuilt.stdout
    assert "6 products indexed" in reindex(data_dir, tiny_bundle).stdout
    assert reindex(data_dir, tiny_bundle, "--verify").returncode == 0


def test_what_is_in_the_index_alone_is_told_and_goes(data_dir: Path, tiny_bundle: Path) -> None:
    shutil.rmtree(data_dir / "catalogue" / product_folder("one", "product-3"))
    told = reindex(data_dir, tiny_bundle, "--verify")
    assert (told.returncode, told.stdout.splitlines()[0]) == (1, "one / product-3")
    assert reindex(data_dir, tiny_bundle).returncode == 0
    assert reindex(data_dir, tiny_bundle, "--verify").stdout.startswith("The index agrees")


def test_where_nothing_is_to_be_looked_at_nothing_agrees(data_dir: Path, tiny_bundle: Path) -> None:
    unknown = reindex(data_dir, tiny_bundle, "--verify", "--shop", "three")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no shop 'three'" in unknown.stderr
    elsewhere = data_dir / "elsewhere"
    for arguments in ([], ["--verify"]):
        told = reindex(elsewhere, tiny_bundle, *arguments)
        assert (told.returncode, told.stdout) == (1, "")
        assert f"there is no catalogue {elsewhere / 'catalogue'}" in told.stderr
    assert not elsewhere.exists()


def test_a_product_that_cannot_be_indexed_is_told(data_dir: Path, tiny_bundle: Path) -> None:
    shutil.rmtree(data_dir / "milvus.db")
    folder = data_dir / "catalogue" / product_folder("two", "p")
    next(path for path in folder.iterdir() if path.suffix != ".json").write_bytes(b"damaged")
    done = reindex(data_dir, tiny_bundle)
    assert done.returncode == 1
    assert "6 products indexed" in done.stdout
    assert "1 product cannot be indexed" in done.stdout


def test_milvus_lite_of_a_running_service_is_left_alone(
    data_dir: Path, tiny_bundle: Path, shop: Shop
) -> None:
    with running_service(data_dir, LPR_BUNDLE=tiny_bundle, LPR_DRAIN_S=0) as client:
        refused = reindex(data_dir, tiny_bundle)
        assert refused.returncode == 1
        assert "another service is using the data directory" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert client.recognize("one", shop.clips["product-1"])["candidates"]
