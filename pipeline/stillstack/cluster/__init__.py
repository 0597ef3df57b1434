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
from stillstack.cluster.settings import PAUSE_FRACTION, THREAD_CAPS
from stillstack.cluster.streaming import finished

__all__ = [
    "PAUSE_FRACTION",
    "THREAD_CAPS",
    "OnLink",
    "active_client",
    "client_for",
    "dashboard_link",
    "finished",
    "machine_size",
    "thread_count",
]
