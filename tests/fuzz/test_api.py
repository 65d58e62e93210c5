"""schemathesis asks a running service what its OpenAPI document allows, and what it does not.

`FUZZ_CASES` says how many requests, about; `make fuzz CASES=10000` is a long run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.keys import Right, create_key
from service.launch import ServiceProcess
from tests.fuzz.schemathesis_hooks import PICTURE

CASES = int(os.environ.get("FUZZ_CASES", "300"))
FOLDER = Path(__file__).parent
_OPERATIONS = 8  # with parameters or a body, so that there is something to vary


@pytest.mark.timeout(CASES + 1_200)
def test_the_service_is_as_its_openapi_document_says(tiny_bundle: Path, tmp_path: Path) -> None:
    _, secret = create_key(
        tmp_path / "keys.json", name="fuzz", shops="all", rights=list(Right), expires_at=None
    )
    key = {"authorization": f"Bearer {secret}"}
    service = ServiceProcess(tmp_path, LPR_BUNDLE=tiny_bundle, LPR_DRAIN_S=0)
    try:
        address = service.wait_address()
        with (
            Client(address) as client,
            httpx.Client(base_url=address, trust_env=False, headers=key, timeout=60) as http,
        ):
            service.wait_ready(client)
            product = {"shop_id": "known", "product_id": "p"}
            stored = http.post("/gallery", data=product, files={"images": PICTURE})
            assert stored.status_code == 201, stored.text
            said = _schemathesis(address, secret, tmp_path)
            metrics = http.get("/metrics").text
    finally:
        service.stop()
    generated = re.search(r"(\d+) generated", said)
    assert generated is not None, said
    assert int(generated[1]) >= CASES, said
    failed = [
        line
        for line in metrics.splitlines()
        if line.startswith("lpr_requests_total") and 'status="5' in line and "/readyz" not in line
    ]
    assert not failed
    lines = service.log.read_text().splitlines()
    assert not [line for line in lines if line.startswith("Traceback")]
    # What gRPC's core says in a language of its own is no line of the service's log.
    log = [json.loads(line) for line in lines if line.startswith("{")]
    ours = [line for line in log if line["logger"].startswith(("service", "uvicorn"))]
    assert not [line for line in ours if line["level"] == "error"]


def _schemathesis(address: str, secret: str, folder: Path) -> str:
    """What it said of all checks on all operations, after it found nothing to complain of."""
    command = [str(Path(sys.executable).with_name("schemathesis"))]
    command += ["--config-file", str(FOLDER / "schemathesis.toml")]
    command += ["run", f"{address}/openapi.json", "--checks", "all", "--continue-on-failure"]
    command += ["--header", f"Authorization: Bearer {secret}", "--no-color"]
    command += ["--max-examples", str(max(10, CASES // _OPERATIONS)), "--request-timeout", "30"]
    if "FUZZ_CASES" not in os.environ:
        command += ["--seed", "1"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(FOLDER.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    return done.stdout
