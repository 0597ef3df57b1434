"""A reduction as a lazy Dataset: nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from stillstack.model import X, Y
from stillstack.reduction.summary_images import Variable, variables_of
from stillstack.reduction.tasks import Work, batch_tasks, empty_task


def lazy_dataset(work: Work, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Dataset of all variables, one Dask chunk for each group.

    Parameters
    ----------
    work
        The reduction.
    attrs
        Attributes of the Dataset.
    """
    batches = work.batches
    tasks: dict[int, Delayed] = {}
    for batch in batches:
        tasks.update(batch_tasks(work, batch, len(batches)))
    for group in range(len(work.selection.groups)):
        if group not in tasks:
            tasks[group] = empty_task(work, group)
    labels = work.selection.labels
    variables = {v.name: _variable(work, v, tasks) for v in variables_of(work.request)}
    coords: dict[str, Any] = {
        name: ((name,), values, dict(work.selection.attrs[name])) for name, values in labels.items()
    }
    for dim, length in zip((Y, X), work.shape, strict=True):
        coords[dim] = ((dim,), np.arange(length), {"units": "pixel"})
    return xr.Dataset(variables, coords=coords, attrs=dict(attrs))


def _variable(work: Work, variable: Variable, tasks: Mapping[int, Delayed]) -> xr.Variable:
    dims = tuple(work.selection.labels)
    shape = work.shape if variable.is_image else ()
    name = f"{variable.name}-{work.digest}"
    corner = (0,) * len(shape)
    layer: dict[Any, Any] = {
        (name, *work.selection.place(group), *corner): (
            _chunk,
            task.key,
            variable.name,
            len(dims),
        )
        for group, task in tasks.items()
    }
    needed: list[Any] = list(tasks.values())
    graph = HighLevelGraph.from_collections(name, layer, dependencies=needed)
    chunks = (*((1,) * n for n in work.selection.shape), *((n,) for n in shape))
    array = da.Array(graph, name, chunks, dtype=np.dtype(variable.dtype))
    names = (*dims, Y, X) if variable.is_image else dims
    return xr.Variable(names, array, variable.attrs)


def _chunk(values: Mapping[str, NDArray[Any]], name: str, n_dims: int) -> NDArray[Any]:
    """One variable of a group, with a dimension of length one for each it is grouped by."""
    value = values[name]
    return value.reshape((1,) * n_dims + value.shape)
