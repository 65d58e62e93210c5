"""docker-compose.yml, read as Compose reads it: YAML with merged anchors."""

from __future__ import annotations

from typing import Any

import yaml

from tests.operations.prometheus import DEPLOY

ROOT = DEPLOY.parent
FILE = ROOT / "docker-compose.yml"
SECRETS = "/run/secrets"  # where Compose puts them


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def secret_files(service: dict[str, Any]) -> dict[str, str]:
    """Which secret a container finds under which name in `SECRETS`."""
    return {
        **{secret: secret for secret in service.get("secrets", ()) if isinstance(secret, str)},
        **{
            secret["target"]: secret["source"]
            for secret in service.get("secrets", ())
            if isinstance(secret, dict)
        },
    }
