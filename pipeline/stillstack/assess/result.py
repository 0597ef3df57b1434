"""What an assessment found, as values, a table, a sentence and an xarray Dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.assess.ladder import ENOUGH_LANDED, OWN, smallest_factor
from stillstack.model import AXES, AXIS, REJECTING, Status, is_good

Pair = tuple[float, float]

LANDED_PX: Final = 1.0
"""A frame has landed where it is good and no further than this from the truth along either axis."""

_ALIKE: Final = 1.15


@dataclass(frozen=True)
class DoseRow:
    """What the trials at one dose came to. Pairs are (y, x).

    Parameters
    ----------
    factor
        Dose in units of the data's own.
    dose
        Mean counts of a valid pixel of one frame.
    n_trials
        Frames that were registered.
    good
        Part of them that is good, 0 to 1.
    landed
        Part that is good and within a pixel of the truth.
    bias
        Mean error, px; the noise of the reference and of the scene displace the origin.
    rms
        Root mean square error about the bias, px; NaN where under two frames are good.
    predicted
        Root mean square of ``shift_std``, px.
    pull
        Root mean square of errors about the bias in units of ``shift_std``.
    rejected
        Why others are not good: names of status bits, and the part of all frames that has them.
    begins
        Whether data of this dose can begin a reference of its own. The trials have an aligned one
        of their dose either way.
    """

    factor: float
    dose: float
    n_trials: int
    good: float
    landed: float
    bias: Pair
    rms: Pair
    predicted: Pair
    pull: Pair
    rejected: tuple[tuple[str, float], ...] = ()
    begins: bool = True

    @property
    def rms_std(self) -> float:
        """Standard error of the rms, as a part of it."""
        return float(1.0 / np.sqrt(2.0 * max(self.good * self.n_trials - 1.0, 1.0)))


@dataclass(frozen=True)
class Assessment:
    """How precisely the data can be registered; made by :func:`assess`.

    Parameters
    ----------
    doses
        From the highest to the lowest.
    gain, read_noise
        Counts per event and counts rms: the noise of the trials.
    n_frames
        Frames of the user's that make the scene.
    n_reference
        Frames that the noise of the trials' reference is worth.
    resolution_px
        Half a period of the finest pattern that stands out of the noise of these frames.
    frames_std
        (y, x) median ``shift_std`` of the user's own frames, px: what no simulation has touched.
    notes
        What makes the verdict weaker.
    """

    doses: tuple[DoseRow, ...]
    gain: float
    read_noise: float
    n_frames: int
    n_reference: float
    resolution_px: float
    frames_std: Pair
    notes: tuple[str, ...]

    @property
    def own(self) -> DoseRow:
        """At the data's own dose."""
        return next(row for row in self.doses if row.factor == OWN)

    @property
    def smallest_dose(self) -> float | None:
        """Lowest dose, counts a pixel, at which 99 % land within a pixel; None if at none."""
        factor = smallest_factor({row.factor: row.landed for row in self.doses})
        return next((row.dose for row in self.doses if row.factor == factor), None)

    @property
    def sentence(self) -> str:
        """The verdict."""
        own = self.own
        if not np.isfinite(own.rms).all():
            return (
                f"At its own dose of {own.dose:.3g} counts a pixel this data cannot be "
                "registered frame by frame."
            )
        y, x = own.rms
        precision = f"{y:.2g} px in y and {x:.2g} px in x"
        if max(y, x) < _ALIKE * min(y, x):
            precision = f"{np.hypot(y, x) / np.sqrt(2.0):.2g} px"
        return (
            f"This data supports {precision} (1 sigma) per frame at its own dose of "
            f"{own.dose:.3g} counts a pixel."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None where a number is not known."""
        rows = [{key: _plain(value) for key, value in asdict(row).items()} for row in self.doses]
        return {
            "sentence": self.sentence,
            "smallest_dose": self.smallest_dose,
            **{key: _plain(value) for key, value in asdict(self).items() if key != "doses"},
            "doses": rows,
        }

    def to_dataset(self) -> xr.Dataset:
        """Bias, rms, predicted error and pull against dose, with units, from the lowest dose up."""
        rows = sorted(self.doses, key=lambda row: row.dose)
        columns = {
            "bias": ("mean error of shift", "pixel"),
            "rms": ("rms error of shift about its mean", "pixel"),
            "predicted": ("rms of shift_std", "pixel"),
            "pull": ("rms error in units of shift_std", "1"),
            "good": ("part of the frames that is good", "1"),
            "landed": (f"part that is good and within {LANDED_PX:g} px of the truth", "1"),
            "n_trials": ("simulated frames", "1"),
        }
        variables = {}
        for name, (long_name, units) in columns.items():
            values = np.array([getattr(row, name) for row in rows])
            dims = ("dose", AXIS)[: values.ndim]
            variables[name] = xr.Variable(dims, values, {"long_name": long_name, "units": units})
        dose = xr.Variable(
            "dose", [row.dose for row in rows], {"long_name": "mean counts", "units": "count"}
        )
        attrs = {"sentence": self.sentence, "gain": self.gain, "read_noise": self.read_noise}
        return xr.Dataset(variables, {"dose": dose, AXIS: list(AXES)}, attrs)

    def rows(self) -> list[tuple[str, str]]:
        """Labelled lines for the command line."""
        lines = [("data", self.sentence)]
        lines += [(f"{row.dose:.3g} counts", _line(row)) for row in self.doses]
        lines.append(("smallest", self._smallest()))
        y, x = self.frames_std
        own = f"their own error bars are {y:.2g} px in y and {x:.2g} px in x (median)"
        lines.append(("frames", f"{self.n_frames} of them made the scene; {own}"))
        lines.append(("detail", f"down to {self.resolution_px:.2g} px stands out of their noise"))
        return lines

    def _smallest(self) -> str:
        """Say down to which dose frames land."""
        share, smallest = f"{ENOUGH_LANDED:.0%}", self.smallest_dose
        if smallest is None:
            return f"at no dose that was tried {share} land within {LANDED_PX:g} px"
        begins = next(row.begins for row in self.doses if row.dose == smallest)
        alone = "" if begins else "; one frame of that dose cannot begin one"
        return (
            f"at {smallest:.2g} counts a pixel {share} still land within {LANDED_PX:g} px, on a "
            f"reference of that dose that is aligned as well as this one{alone}"
        )


def row_of(factor: float, dose: float, trials: NDArray[np.void], n_trials: int) -> DoseRow:
    """Sum up the trials of one dose.

    Parameters
    ----------
    factor, dose
        Of the trials.
    trials
        Rows of :data:`~stillstack.assess.trials.TRIAL_DTYPE`.
    n_trials
        How many there should be: where the reference cannot be used at all, there are none.
    """
    good = trials[is_good(trials["status"])]
    error = good["shift"] - good["truth"]
    landed = int((np.abs(error) < LANDED_PX).all(axis=1).sum())
    nothing = (float("nan"), float("nan"))
    bias = rms = predicted = pull = nothing
    if len(good) > 1:
        about = error - error.mean(axis=0)
        freedom = len(good) / (len(good) - 1)
        bias = _pair(error.mean(axis=0))
        rms = _pair(np.sqrt(np.mean(about**2, axis=0) * freedom))
        predicted = _pair(np.sqrt(np.mean(good["shift_std"] ** 2, axis=0)))
        pull = _pair(np.sqrt(np.mean((about / good["shift_std"]) ** 2, axis=0) * freedom))
    return DoseRow(
        factor=factor,
        dose=dose,
        n_trials=n_trials,
        good=len(good) / n_trials,
        landed=landed / n_trials,
        bias=bias,
        rms=rms,
        predicted=predicted,
        pull=pull,
        rejected=_reasons(trials["status"], n_trials),
    )


def _reasons(status: NDArray[np.uint16], n_trials: int) -> tuple[tuple[str, float], ...]:
    """Return the rejecting bits that are set, and how often."""
    counts = {bit: int(np.count_nonzero(status & int(bit))) for bit in Status if bit & REJECTING}
    return tuple((str(bit.name).lower(), n / n_trials) for bit, n in counts.items() if n)


def _line(row: DoseRow) -> str:
    y, x = row.rms
    bias_y, bias_x = row.bias
    reasons = ", ".join(f"{part:.1%} {word.replace('_', ' ')}" for word, part in row.rejected)
    return (
        f"rms {y:.3g}, {x:.3g} px (+- {row.rms_std:.0%}), predicted {row.predicted[0]:.3g}, "
        f"{row.predicted[1]:.3g} px; bias {bias_y:+.2g}, {bias_x:+.2g} px; {row.good:.1%} good, "
        f"{row.landed:.1%} within {LANDED_PX:g} px{f' ({reasons})' if reasons else ''}"
    )


def _pair(values: NDArray[np.float64]) -> Pair:
    return float(values[0]), float(values[1])


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
