"""The log: no secret of the settings is ever told, every line is JSON, and all quiet is quiet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from service.settings import CatalogueSettings
from tests.faults.processes import Served, until
from tests.integration.material import picture
from tests.service.lite_server import Server

SECRETS = ("hush-milvus", "hush-redis", "hush-key")


def test_no_secret_is_told_while_everything_fails(
    tiny_bundle: Path, s3_settings: CatalogueSettings, tmp_path: Path
) -> None:
    assert s3_settings.secret_access_key is not None
    milvus = Server(tmp_path / "milvus")
    env = {
        "LPR_BUNDLE": tiny_bundle,
        "LPR_DRAIN_S": 0,
        "LPR_KEY": "hush-key",
        "LPR_MILVUS__URI": f"http://127.0.0.1:{milvus.port}",
        "LPR_MILVUS__TOKEN": "root:hush-milvus",
        "LPR_REDIS__URL": "redis://:hush-redis@127.0.0.1:9/0",  # nobody answers there
        "LPR_CATALOGUE__URL": s3_settings.url,
        "LPR_CATALOGUE__ENDPOINT": s3_settings.endpoint,
        "LPR_CATALOGUE__ACCESS_KEY_ID": "hush-id",
        "LPR_CATALOGUE__SECRET_ACCESS_KEY": s3_settings.secret_access_key.get_secret_value(),
    }
    try:
        with Served(tmp_path / "service", **env) as served:
            served.client.put_product("shop", "p", [picture(0)])
            milvus.kill()
            answer = served.http.post(
                "/recognize", data={"shop_id": "shop"}, files={"frames": picture(0)}
            )
            until(lambda: "Milvus" in served.log, 60, "the log tells of it")
            info, metrics = served.http.get("/info"), served.http.get("/metrics")
        told = served.log + answer.text + info.text + metrics.text
    finally:
        milvus.kill()
    assert "Redis does not answer" in told
    assert not [secret for secret in SECRETS if secret in told]
    assert all(json.loads(line) for line in served.log.splitlines())


def test_a_write_that_succeeds_complains_of_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    with Served(tmp_path, LPR_BUNDLE=tiny_bundle, LPR_DRAIN_S=0) as served:
        served.client.put_product("shop", "p", [picture(0)])
        served.client.delete_product("shop", "p")
    levels = {json.loads(line)["level"] for line in served.log.splitlines()}
    assert levels == {"info"}, served.log


def test_what_pymilvus_says_is_json_too() -> None:
    """It has handlers of its own, and what nobody handles is printed by `logging` as it is."""
    program = (
        "import logging, pymilvus\n"
        "from service.log import log_to_stderr\n"
        "log_to_stderr()\n"
        "for name in ('decorators', 'milvus_client.milvus_client', 'bulk_writer.buffer'):\n"
        "    logging.getLogger(f'pymilvus.{name}').error('an RPC failed')\n"
        "    logging.getLogger(f'pymilvus.{name}').warning('a way of Lite')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["an RPC failed"] * 3
