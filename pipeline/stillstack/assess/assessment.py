"""How precisely a user's own data can be registered, and with how much less dose."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from dask.base import compute as dask_compute
from dask.delayed import delayed
from dask.system import CPU_COUNT

from stillstack.assess.gathering import gather
from stillstack.assess.halves import Compute
from stillstack.assess.ladder import OWN, next_factor
from stillstack.assess.material import Material
from stillstack.assess.result import Assessment, DoseRow, row_of
from stillstack.assess.trials import TRIAL_DTYPE, run_trials
from stillstack.config import RunConfig
from stillstack.errors import InputError
from stillstack.plan import Plan
from stillstack.plan import plan as make_plan

OnTrials = Callable[[int, int, int], None]
"""Called with the trials that are done, those expected in all, and 0."""

TRIALS: Final = 200
SECONDS: Final = 60.0
"""Trials of one dose, and seconds that all of them may take before they become fewer."""

_FEWEST_TRIALS: Final = 40
_TRIALS_PER_TASK: Final = 8
_TYPICAL_DOSES: Final = 9
# Where trials have to be few, the verdict on the data's own dose gets more of them.
_OWN_WEIGHT: Final = 3
# The user's frames differ in brightness, and their error bars with it.
_ALIKE: Final = 1.3


def assess(
    config: RunConfig | Plan | Mapping[str, Any] | str | Path,
    *,
    trials: int | None = None,
    seconds: float = SECONDS,
    seed: int = 0,
    progress: OnTrials | None = None,
    compute: Compute = dask_compute,
) -> Assessment:
    """Bias and rms error of registration against dose, measured on the user's own frames.

    The frames of the config are aligned and added up twice, each detected event in one of two sums,
    so that the sums share no noise. One becomes the reference, made as the config says. The other
    is the scene: it is moved by known fractions of a pixel under the valid pixels, which stay,
    given fresh photon noise, and registered with the config's settings. At other doses the
    reference is thinned likewise. Nothing is written.

    Parameters
    ----------
    config
        A config, its path, its sections as a mapping, or a plan that was just made of it.
    trials
        Trials at each dose. By default 200, or as many as ``seconds`` allow: 40 or more, and three
        times as many at the data's own dose.
    seconds
        About how long the trials may take, where ``trials`` is not given.
    seed
        Of the noise and the shifts: equal seeds give equal trials.
    progress
        Called whenever some trials are done.
    compute
        ``dask.compute``, which uses the active Client, else threads.

    Raises
    ------
    InputError
        If the config is refused by its plan, no frame can be registered, or the frames show no
        counts.

    Examples
    --------
    >>> found = assess("run7.yaml", trials=4)
    >>> found.own.n_trials
    4
    """
    if trials is not None and trials < 2:
        raise InputError(
            f"{trials} trials were asked for.",
            consequence="No rms error can be told from so few.",
            cure="Ask for 200 of each dose, or leave it out.",
        )
    plan = config if isinstance(config, Plan) else make_plan(config)
    plan.refuse()
    material = gather(plan, seed, compute)
    few = trials or _affordable(material, seconds)
    own = trials or min(TRIALS, _OWN_WEIGHT * few)
    series = _Series(material, few, own, _Counter(progress), compute)
    rows: dict[float, DoseRow] = {}
    while (factor := next_factor(_landed(rows), material.most)) is not None:
        rows[factor] = series.at(factor, len(rows))
    found = Assessment(
        doses=_begun(material, [rows[factor] for factor in sorted(rows)]),
        gain=material.noise[0],
        read_noise=material.noise[1],
        n_frames=material.n_frames,
        n_reference=material.n_reference,
        resolution_px=0.5 / material.bench.scene.limit,
        frames_std=material.frames_std,
        notes=material.notes,
    )
    return replace(found, notes=(*found.notes, *_doubts(found)))


class _Counter:
    """Tells how far the trials are."""

    def __init__(self, tell: OnTrials | None) -> None:
        self._tell = tell
        self._done = 0

    def add(self, number: int, total: int) -> None:
        """Say that some more are done, of so many that are expected."""
        self._done += number
        if self._tell is not None:
            self._tell(self._done, max(self._done, total), 0)


@dataclass(frozen=True, eq=False)
class _Series:
    """Trials at one dose after the other."""

    material: Material
    n_elsewhere: int
    n_own: int
    counter: _Counter
    compute: Compute

    def at(self, factor: float, rung: int) -> DoseRow:
        """Return what the trials at a dose come to; `rung` says which one it is."""
        material = self.material
        n_trials = self.n_own if factor == OWN else self.n_elsewhere
        expected = self.n_own + self.n_elsewhere * max(rung, _TYPICAL_DOSES - 1)
        dose = factor * material.dose
        try:
            reference = material.reference_at(factor)
        except InputError:  # nothing in it stands out of the noise
            self.counter.add(n_trials, expected)
            return row_of(factor, dose, np.empty(0, TRIAL_DTYPE), n_trials)
        bench = delayed(material.bench, name=f"bench-{material.token}", traverse=False)
        held = delayed(reference, name=f"reference-{reference.digest}", traverse=False)
        task = delayed(run_trials, pure=False)
        found: list[Any] = []
        for numbers in _portions(n_trials, _TRIALS_PER_TASK * 2 * CPU_COUNT):
            tasks = [
                task(bench, held, factor, rung, some)
                for some in _portions(len(numbers), _TRIALS_PER_TASK, numbers.start)
            ]
            found += self.compute(*tasks)
            self.counter.add(len(numbers), expected)
        return row_of(factor, dose, np.concatenate(found), n_trials)


def _begun(material: Material, rows: list[DoseRow]) -> tuple[DoseRow, ...]:
    """Add whether a reference can be begun, to rows in the order of their doses; highest first."""
    begins, found = False, []
    for row in rows:
        begins = begins or row.factor >= OWN or material.begins_at(row.factor)
        found.append(replace(row, begins=begins))
    return tuple(reversed(found))


def _portions(number: int, size: int, first: int = 0) -> list[range]:
    """Return so many numbers from the first on, a few in each range."""
    stop = first + number
    return [range(i, min(i + size, stop)) for i in range(first, stop, size)]


def _landed(rows: Mapping[float, DoseRow]) -> dict[float, float]:
    return {factor: row.landed for factor, row in rows.items()}


def _doubts(found: Assessment) -> tuple[str, ...]:
    """Hold the trials' error bars against those of the user's own frames."""
    with np.errstate(invalid="ignore"):
        ratio = np.divide(found.frames_std, found.own.predicted)
    if np.all((ratio > 1 / _ALIKE) & (ratio < _ALIKE)) or not np.isfinite(ratio).all():
        return ()
    y, x = found.frames_std
    own = f"The error bars of the frames themselves are {y:.2g} px in y and {x:.2g} px in x"
    times = f"{ratio.min():.2g} to {ratio.max():.2g} times those of the trials"
    cause = "they hold something that is neither this scene nor photon noise"
    return (f"{own}, {times}: {cause}, or registration.gain is not theirs.",)


def _affordable(material: Material, seconds: float) -> int:
    """Trials of a dose that all doses together can afford, 200 at most."""
    reference = material.reference_at(OWN)
    run_trials(material.bench, reference, OWN, 0, range(1))  # compiles
    began = time.perf_counter()
    run_trials(material.bench, reference, OWN, 0, range(2))
    each = (time.perf_counter() - began) / 2
    doses = _TYPICAL_DOSES - 1 + _OWN_WEIGHT
    return int(np.clip(seconds * CPU_COUNT / (each * doses), _FEWEST_TRIALS, TRIALS))
