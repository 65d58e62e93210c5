"""A real S3 server on loopback (moto's), and settings of a bucket in it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

from service.settings import CatalogueSettings

KEY, SECRET, REGION = "test", "secret", "us-east-1"


@contextmanager
def object_store() -> Iterator[str]:
    """The address of a server that is there for the length of the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def bucket_settings(endpoint: str) -> CatalogueSettings:
    """A folder of a bucket of its own, made here."""
    bucket = f"lpr-{uuid.uuid4().hex}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    client.create_bucket(Bucket=bucket)
    return CatalogueSettings(
        url=f"s3://{bucket}/a/folder",
        endpoint=endpoint,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region=REGION,
    )
