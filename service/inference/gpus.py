"""What the GPUs of this machine are at, for Prometheus. Knows NVML and nothing of models."""

from __future__ import annotations

from collections.abc import Iterator

import pynvml
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import StartupError


class Gpus(Collector):
    """Memory and use of every GPU that the driver shows."""

    def __init__(self) -> None:
        """Raises StartupError where there is no driver to ask."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise StartupError(f"the GPU's driver does not answer: {error}") from error
        self._gpus = {
            str(place): pynvml.nvmlDeviceGetHandleByIndex(place)
            for place in range(pynvml.nvmlDeviceGetCount())
        }

    def collect(self) -> Iterator[Metric]:
        used = GaugeMetricFamily("lpr_gpu_memory_used_bytes", "GPU memory in use", labels=["gpu"])
        busy = GaugeMetricFamily(
            "lpr_gpu_utilisation_ratio", "Share of the time in which it computed", labels=["gpu"]
        )
        for place, gpu in self._gpus.items():
            used.add_metric([place], pynvml.nvmlDeviceGetMemoryInfo(gpu).used)
            busy.add_metric([place], pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
        yield from (used, busy)
