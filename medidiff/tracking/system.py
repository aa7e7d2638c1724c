"""Load of the machine as metrics `system/...`: MLflow's own monitors, written to the journal."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

log = logging.getLogger("medidiff.tracking")

INTERVAL_S = 10.0


class SystemMetrics:
    """A thread that gives `write` the load of this machine: CPU, memory, disk, network, GPUs.

    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL (seconds) and MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    (false) are respected. GPUs are read where `nvidia-ml-py` is installed. Without MLflow or
    psutil there are no such metrics.
    """

    def __init__(self, write: Callable[[Mapping[str, float]], None]) -> None:
        self._write = write
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="medidiff-load", daemon=True)

    def start(self) -> None:
        """Begin, unless the environment says no."""
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() != "false":
            self._thread.start()

    def stop(self) -> None:
        """End; nothing is written afterwards but a sample that is just being taken."""
        self._stop.set()

    def _work(self) -> None:
        monitors = _monitors()
        interval = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or INTERVAL_S)
        for monitor in monitors:  # rates count from the first reading, which itself says nothing
            monitor.collect_metrics()
            monitor.clear_metrics()
        pause = min(interval, 1.0)
        while monitors and not self._stop.wait(pause):
            self._write(_reading(monitors))
            pause = interval


def _monitors() -> list[BaseMetricsMonitor]:
    try:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    except ImportError as error:
        log.info("no system metrics: %s", error)
        return []
    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except (ImportError, RuntimeError) as error:  # no nvidia-ml-py, or no NVIDIA GPU
        log.debug("no GPU metrics: %s", error)
    return monitors


def _reading(monitors: list[BaseMetricsMonitor]) -> dict[str, float]:
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        means: Any = monitor.aggregate_metrics()  # MLflow's base class declares nothing
        values |= {f"system/{key}": float(value) for key, value in means.items()}
        monitor.clear_metrics()
    return values
