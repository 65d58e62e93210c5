"""Several services on one catalogue, one index and one Redis, as behind a load balancer."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from service.settings import CatalogueSettings
from tests.faults.processes import RedisServer
from tests.ports import free_port
from tests.service.lite_server import Server


class Shared:
    """What replicas share: an object store, a Milvus Lite server, and a Redis."""

    def __init__(self, folder: Path, catalogue: CatalogueSettings) -> None:
        self._catalogue = catalogue
        self.redis = RedisServer(folder / "redis", free_port())
        self.milvus = Server(folder / "milvus")

    def __enter__(self) -> Self:
        self.redis.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.kill()
        self.milvus.kill()

    @property
    def settings(self) -> dict[str, object]:
        catalogue = self._catalogue
        assert catalogue.secret_access_key is not None
        return {
            "LPR_REDIS__URL": self.redis.url,
            "LPR_MILVUS__URI": f"http://127.0.0.1:{self.milvus.port}",
            "LPR_CATALOGUE__URL": catalogue.url,
            "LPR_CATALOGUE__ENDPOINT": catalogue.endpoint,
            "LPR_CATALOGUE__ACCESS_KEY_ID": catalogue.access_key_id,
            "LPR_CATALOGUE__SECRET_ACCESS_KEY": catalogue.secret_access_key.get_secret_value(),
            "LPR_CATALOGUE__REGION": catalogue.region,
        }
