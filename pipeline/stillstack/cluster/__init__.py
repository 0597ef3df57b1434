"""The one place that makes a Dask Client.

Parallel work is one process with one thread for each core, so the thread pools of BLAS, numba and
the codecs are limited to one thread in the workers' environment.
"""

from stillstack.cluster.client import (
    OnLink,
    active_client,
    client_for,
    dashboard_link,
    machine_size,
    thread_count,
)
from stillstack.cluster.heartbeats import WorkerMemory, workers_memory
from stillstack.cluster.peaks import peak_bytes, worker_peaks
from stillstack.cluster.performance import check_performance_report, performance_report
from stillstack.cluster.settings import PAUSE_FRACTION, THREAD_CAPS
from stillstack.cluster.streaming import finished

__all__ = [
    "PAUSE_FRACTION",
    "THREAD_CAPS",
    "OnLink",
    "WorkerMemory",
    "active_client",
    "check_performance_report",
    "client_for",
    "dashboard_link",
    "finished",
    "machine_size",
    "peak_bytes",
    "performance_report",
    "thread_count",
    "worker_peaks",
    "workers_memory",
]
