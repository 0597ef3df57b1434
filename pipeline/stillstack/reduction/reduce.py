"""Averages of a run's aligned frames, with errors and coverage, from raw frames and shifts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stillstack.address import Location, located, portable
from stillstack.cluster import OnLink
from stillstack.config.cluster import ClusterConfig
from stillstack.errors import InputError
from stillstack.frameblock import Resampling
from stillstack.model import FRAME
from stillstack.reduction.aligned_frames import Job
from stillstack.reduction.lazy import lazy_dataset
from stillstack.reduction.middle import median_bands
from stillstack.reduction.raw import corrected_as_then, reference_named, source_of
from stillstack.reduction.request import (
    BY_SUM,
    DEFAULT_CLIP_SIGMA,
    DEFAULT_STATISTICS,
    MEDIAN,
    NO_NORMALISATION,
    Request,
    checked_request,
)
from stillstack.reduction.room import Workers, worker_bytes, workers_for
from stillstack.reduction.selection import Selection, select
from stillstack.reduction.shared_area import drift_of, normalising_images
from stillstack.reduction.tasks import Work
from stillstack.reduction.written import Engine, OnFrames, write_reduction
from stillstack.sources import Source
from stillstack.storage import RunStore, open_reduction, open_run
from stillstack.versions import deciding_versions


@dataclass(frozen=True)
class ReductionOptions:
    """What is seldom changed about a reduction.

    Parameters
    ----------
    clip_sigma
        How far from the others a value may be, in their standard deviations, to count in the
        sigma-clipped mean.
    source
        The raw frames, where they are not any more where the run found them; they are corrected as
        the run's config says.
    cluster
        Where it is computed when it is written and no Dask Client is active.
    median_bytes
        Memory that one task may take for a median; from the workers' memory where not given.
    durable
        Sync what is written.
    on_frames
        Told the frames done, all frames, and those an earlier attempt had done.
    on_link
        Told the address of the cluster's dashboard.
    """

    clip_sigma: float = DEFAULT_CLIP_SIGMA
    source: Source | None = None
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    median_bytes: int | None = None
    durable: bool = True
    on_frames: OnFrames | None = None
    on_link: OnLink | None = None


def reduce_run(
    run: str | Path | Location | xr.Dataset,
    by: str | Iterable[str] = (),
    statistics: str | Iterable[str] = DEFAULT_STATISTICS,
    normalise: str = NO_NORMALISATION,
    *,
    output: str | Path | Location | None = None,
    options: ReductionOptions | None = None,
) -> xr.Dataset:
    """Averages of a run's good frames, each resampled once in floating point from the raw one.

    One pass over the raw frames makes mean, variance, standard error and coverage; the
    sigma-clipped mean takes a second one, a median one for each band of rows that fits into memory.
    Groups are done one after the other, or a few together, and frames a piece at a time, so that
    memory does not grow with the number of frames or groups. Frames that are not good are left out.

    Parameters
    ----------
    run
        What ``stillstack run`` wrote, or the Dataset that `open_run` made of it, to which
        coordinates may have been added, and bits in its ``status``.
    by
        Names of the per-frame coordinates whose values make groups, such as ``["delay", "scan"]``;
        all frames together where none is named.
    statistics
        Some of mean, variance, standard_error, coverage, median, sigma_clipped_mean. Coverage
        always comes along.
    normalise
        ``"none"``. ``"sum"``: each frame is divided by its sum over the pixels that all used frames
        share, relative to the reference's sum over the same pixels. ``"intensity"``: by the fitted
        intensity, which is relative to the reference too, and to which the background does not
        belong. Else the name of a coordinate, a monitor, by whose ratio to its mean over the
        frames that are used. Frames whose divisor is not positive are left out, and counted.
    output
        Where it is written, by the active Dask Client, the scheduler that Dask was told of, or
        workers that are started for it. The same call goes on where one was stopped. Where not
        given, nothing is computed yet.
    options
        What is seldom changed.

    Returns
    -------
    xarray.Dataset
        Lazy. Dimensions ``(*by, y, x)``: ``mean``, ``variance`` of single frames (divided by
        n - 1), ``standard_error`` of the mean from the scatter of the frames as they were added,
        their normalisation included, float64, counts; ``coverage``, int32, the frames that counted
        at each pixel. Dimensions ``by``: ``n_frames``, ``n_dark`` (frames whose sum is not
        positive), and with a normalisation its mean and spread. NaN where no frame counted, and for
        variance and error where fewer than two did. Two reductions merge again: the sum of squares
        is ``variance * (coverage - 1)``. Attributes say what it was made of.

    Raises
    ------
    InputError
        If something is asked for that there is not, raw frames are gone, or memory does not do.

    Examples
    --------
    >>> result = reduce_run("run7.zarr", by="delay", normalise="sum")
    >>> result["mean"].sel(delay=0).compute().dims
    ('y', 'x')
    """
    options = options or ReductionOptions()
    request = checked_request(by, statistics, normalise, options.clip_sigma)
    dataset, store = _opened(run)
    given = options.source
    source = source_of(store) if given is None else corrected_as_then(given, store, given.name)
    selection = select(dataset, request)
    work, workers = _work(request, selection, source, store, options)
    attrs = _attributes(work, store)
    if output is None:
        return lazy_dataset(work, attrs)
    engine = Engine(options.cluster, workers, options.durable, options.on_frames, options.on_link)
    return open_reduction(write_reduction(work, located(output), attrs, engine))


def _opened(run: str | Path | Location | xr.Dataset) -> tuple[xr.Dataset, RunStore]:
    if not isinstance(run, xr.Dataset):
        return open_run(run), RunStore.view(run)
    place = run.encoding.get("place")
    if place is None:
        raise InputError(
            "The Dataset does not know the run that it was opened from.",
            consequence="Its reference and raw frames cannot be found.",
            cure="Give the path of the run, or a Dataset that open_run made.",
        )
    store = RunStore.view(place)
    if run.sizes.get(FRAME) != store.n_frames:
        raise InputError(
            f"The Dataset has {run.sizes.get(FRAME)} frames, and the run {store.path} has "
            f"{store.n_frames}.",
            consequence="Frames are found by their number in the run.",
            cure="Leave frames out by their status: run['status'] = run.status | Status.PENDING.",
        )
    return run, store


def _work(
    request: Request,
    selection: Selection,
    source: Source,
    store: RunStore,
    options: ReductionOptions,
) -> tuple[Work, Workers]:
    """Everything that can be refused is refused here, before anything is read."""
    attributes = store.attributes
    kept = reference_named(store)
    height, width = store.frame_shape
    dtype = np.dtype(source.dtype)
    aligned = np.result_type(dtype, np.float32)  # double precision for more than 16 bits
    drift = None
    if request.normalise == BY_SUM:
        drift = drift_of(selection.shift[selection.used])
        normalising_images(portable(store.path), kept.digest, drift)
    job = Job(
        store_path=portable(store.path),
        reference=kept,
        resampling=Resampling(attributes["interpolation"], aligned.str, (0, height, 0, width)),
        dtype=dtype.str,
        drift=drift,
    )
    digest = request.digest(_run_digest(store), selection.digest(), source.fingerprint())
    work = Work(request, selection, source, job, 0, digest)
    at_once = max(len(batch) for batch in work.batches)
    median = MEDIAN in request.statistics
    workers = workers_for(options.cluster, worker_bytes(source, aligned, at_once), median)
    budget = options.median_bytes or workers.median_bytes
    work = Work(request, selection, source, job, budget, digest)
    if median:
        for group in (g for batch in work.batches for g in batch):
            median_bands(job, len(selection.groups[group]), budget)
    return work, workers


def _run_digest(store: RunStore) -> str:
    attributes = store.attributes
    parts = [attributes["config_digest"], attributes["source_fingerprint"]]
    return "-".join([*parts, reference_named(store).digest[:16]])


def _attributes(work: Work, store: RunStore) -> dict[str, Any]:
    """Provenance: what the averages were made of, and how."""
    request, selection = work.request, work.selection
    title = str(store.attributes.get("title", "frames registered by stillstack"))
    n_left_out = sum(selection.left_out.values())
    return {
        "title": f"Averages of {title}",
        "config": request.to_json(),
        "run_digest": _run_digest(store),
        "by": list(request.by),
        "normalisation": request.normalise,
        "interpolation": work.job.resampling.interpolation,
        "frames_used": selection.n_used,
        "frames_left_out": n_left_out,
        "frames_left_out_because": dict(selection.left_out),
        "versions": deciding_versions(),
    }
