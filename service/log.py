"""What an operator reads: a log of one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from service.tracing import trace_id

_PLAIN_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, event, and whatever `extra` the caller gave."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        trace = trace_id()
        if trace:
            line["trace_id"] = trace
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN_RECORD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send every logger of the process through one JSON handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("faiss", "httpx", "milvus_lite", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Of Milvus Lite, whose server is in this process: its caller, who is here too, is told as well.
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    # It brings handlers of its own, and warns of Lite's ways. Without them it must hand its records
    # on to ours, or Python's last resort prints them as they are.
    for name in ("pymilvus", "pymilvus.milvus_client", "pymilvus.bulk_writer"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.ERROR)
