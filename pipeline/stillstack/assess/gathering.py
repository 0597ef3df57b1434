"""From a plan to the material of its trials: frames are registered, divided and added up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.assess.halves import Compute, Division, Halves, divided_sums, register_spread
from stillstack.assess.ladder import MORE, OWN
from stillstack.assess.material import Material
from stillstack.assess.moving import moving_scene
from stillstack.assess.trials import Bench
from stillstack.errors import InputError
from stillstack.exclusion import kept_numbers
from stillstack.model import is_good, status_words
from stillstack.plan import Plan
from stillstack.reference_image import ReferenceImage
from stillstack.sampling import spread_numbers

_FRAMES: Final = 64
_MOST_FRAMES: Final = 256
_MANY_FRAMES: Final = 8
# What the reference may take of the events: the scene needs the rest.
_MOST_SHARE: Final = 0.5
# As in the reference of a run.
_MIN_COVERAGE: Final = 0.5
# A gain so near one is one: a detector that counts.
_COUNTING: Final = 0.05
_FEW_EVENTS: Final = 50.0
_ALIKE: Final = 1.5
_NAMED_FRAMES: Final = 5
_ONE_GROUP: Final = ("All groups were assessed together, on one reference.",)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Good frames, registered to the reference that a run would have.

    Parameters
    ----------
    made
        That reference.
    digest
        Of it.
    n_tried
        Frames that were registered.
    table
        Rows of the good ones.
    halves
        Their sums.
    share
        Part of the events in the reference's sum; 0 where the reference is one frame or an image
        that is not among them.
    as_they_lie
        Whether the frames of the reference's sum are not aligned.
    """

    made: ReferenceImage
    digest: str
    n_tried: int
    table: xr.Dataset
    halves: Halves
    share: float
    as_they_lie: bool

    @property
    def refined(self) -> bool:
        """Whether the reference is a sum of aligned frames."""
        return self.share > 0.0 and not self.as_they_lie

    @property
    def n_good(self) -> int:
        """Number of good frames."""
        return int(self.table.sizes["frame"])


def gather(plan: Plan, seed: int, compute: Compute) -> Material:
    """Make a reference and a scene that share no noise out of the frames of a plan.

    Raises
    ------
    InputError
        If no frame can be registered, or they show no counts.
    """
    _refuse_dark(plan)
    chosen = _choose(plan, seed, compute)
    image, valid, n_reference = _reference_of(chosen, plan)
    bench, dose, brightest = _bench(plan, chosen, np.where(valid, image, np.nan), seed)
    counts = dose * chosen.n_good * (1.0 - chosen.share)
    std_y, std_x = np.median(chosen.table["shift_std"].values, axis=0)
    return Material(
        bench=bench,
        image=image,
        valid=valid,
        n_reference=n_reference,
        fixed=_kind_of(plan) == "image",
        begun_with_one=plan.config.reference.kind == "mean" and chosen.refined,
        settings=plan.settings,
        dose=dose,
        most=MORE if brightest * MORE < _saturation(plan) else OWN,
        n_frames=chosen.n_good,
        frames_std=(float(std_y), float(std_x)),
        notes=(
            *_notes_on_frames(chosen.n_tried, chosen.n_good),
            *_notes_on_reference(chosen.made.n_frames, n_reference),
            *_notes_on_scene(counts, bench.noise[0]),
            *(_ONE_GROUP if plan.config.groups is not None else ()),
        ),
        token=f"{plan.fingerprint}-{chosen.digest}-{seed}",
        seed=seed,
    )


def _choose(plan: Plan, seed: int, compute: Compute) -> _Chosen:
    """Register spread frames, and add up the good ones."""
    source = plan.source
    maker = replace(plan.maker, compute=compute)
    made = maker.make()
    start = maker.prepared(made)
    summed = _kind_of(plan) == "summed"
    numbers = _numbers(plan, made)
    if not numbers:
        raise InputError(
            f"{source.name} has no frame beside the reference.",
            consequence="There is no scene to try registration with.",
            cure="Give two frames or more, or set reference.kind: mean.",
        )
    table = register_spread(source, numbers, start, compute)
    kept = np.flatnonzero(is_good(table["status"].values))
    if not kept.size:
        raise _none_good(table["status"].values, numbers)
    good = table.isel(frame=kept)
    share = min(_MOST_SHARE, made.n_frames / kept.size) if summed else 0.0
    as_they_lie = summed and plan.config.reference.most_rounds == 0
    division = Division(share, (_gain_of(plan), plan.read_noise), seed, as_they_lie)
    chosen = tuple(numbers[i] for i in kept)
    halves = divided_sums(source, chosen, good, start, division, compute=compute)
    return _Chosen(made, start.digest, len(numbers), good, halves, share, as_they_lie)


def _bench(
    plan: Plan, chosen: _Chosen, reference: NDArray[np.float64], seed: int
) -> tuple[Bench, float, float]:
    """Scene and all that stands still; mean counts, and those of the brightest of 1000 pixels."""
    count = chosen.halves.scene_count
    known = count > 0
    mean = chosen.halves.scene_part / ((1.0 - chosen.share) * np.maximum(count, 1))
    seen = mean[known & plan.valid]
    dose = float(seen.mean())
    shifts = chosen.table["shift"].values
    other = np.where(np.isfinite(reference), reference, mean)
    bench = Bench(
        scene=moving_scene(mean, known, other, float(np.abs(shifts).max()) + 1.0),
        valid=plan.valid,
        behind=np.maximum(np.nan_to_num(plan.typical, posinf=0.0, neginf=0.0), 0.0),
        shifts=shifts,
        noise=(_gain_of(plan), plan.read_noise),
        dtype=np.dtype(plan.source.dtype).newbyteorder("="),
        seed=seed,
    )
    return bench, dose, float(np.quantile(seen, 0.999))


def _kind_of(plan: Plan) -> str:
    """Whether the reference is an ``image`` of the user's, a ``single`` frame, or ``summed``."""
    config = plan.config.reference
    if config.most_rounds > 0 or config.kind in ("mean", "median"):
        return "summed"
    return "image" if config.kind == "image" else "single"


def _numbers(plan: Plan, made: ReferenceImage) -> tuple[int, ...]:
    """Frames that are added up: enough of them that the reference can have its own in full."""
    config, n_frames = plan.config.reference, plan.source.shape[0]
    stop = min(config.stop or n_frames, n_frames)
    wanted = min(max(_FRAMES, round(made.n_frames / _MOST_SHARE)), _MOST_FRAMES)
    kept = kept_numbers(plan.left_out, config.start, stop)
    if _kind_of(plan) == "single":
        first = config.kind == "first"
        own = kept_numbers(plan.left_out, 0, n_frames)[0] if first else int(config.index or 0)
        kept = kept[kept != own]
    if not kept.size:
        return ()
    return tuple(int(kept[place]) for place in spread_numbers(0, len(kept), wanted))


def _reference_of(
    chosen: _Chosen, plan: Plan
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """Reference of the trials: its image, valid pixels, and the frames that it is worth."""
    made = chosen.made
    if chosen.share == 0.0:
        return made.image.astype(np.float64), made.valid, float(made.n_frames)
    count = chosen.halves.reference_count
    valid = count >= max(1.0, _MIN_COVERAGE * float(count.max(initial=0)))
    image = chosen.halves.reference_part / (chosen.share * np.maximum(count, 1))
    n_frames = chosen.share * float(np.median(count[valid]))
    if plan.reference_valid is not None:
        valid &= plan.reference_valid
    return image, valid, n_frames


def _gain_of(plan: Plan) -> float:
    integer = np.issubdtype(np.dtype(plan.source.dtype), np.integer)
    return 1.0 if integer and abs(plan.gain - 1.0) < _COUNTING else plan.gain


def _saturation(plan: Plan) -> float:
    """Counts from which on a pixel does not count."""
    dtype, above = np.dtype(plan.source.dtype), plan.settings["above"]
    highest = np.inf if above is None else float(above)
    return min(highest, np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else highest


def _refuse_dark(plan: Plan) -> None:
    mean = float(np.nanmean(plan.typical[plan.valid]))
    if not mean > 0.0:
        raise InputError(
            f"The valid pixels of the sampled frames have a mean of {mean:.3g} counts.",
            consequence="Photon noise cannot be drawn, and there is no dose to name.",
            cure="Give frames of counts, before any background is subtracted.",
        )


def _none_good(status: NDArray[Any], numbers: tuple[int, ...]) -> InputError:
    bad = [
        f"frame {number}: {', '.join(status_words(bits))}"
        for number, bits in zip(numbers, status.tolist(), strict=True)
    ]
    listed = "; ".join([*bad[:_NAMED_FRAMES], *(["..."] if len(bad) > _NAMED_FRAMES else [])])
    return InputError(
        f"None of the {len(numbers)} frames that were tried can be registered ({listed}).",
        consequence="There is no scene to try registration with.",
        cure="Look at these frames, the valid pixels and registration.max_shift_px; stillstack "
        "plan draws what counts.",
    )


def _notes_on_frames(n_tried: int, n_good: int) -> tuple[str, ...]:
    notes = []
    if n_good < n_tried:
        notes.append(f"{n_tried - n_good} of {n_tried} frames are not good; they were left out.")
    if n_good < _MANY_FRAMES:
        notes.append(f"{n_good} frames made the scene: how frames drift is hardly known.")
    return tuple(notes)


def _notes_on_reference(n_run: float, n_trials: float) -> tuple[str, ...]:
    if n_trials > n_run / _ALIKE:
        return ()
    worth = f"worth {n_trials:.3g} frames, that of a run {n_run:.3g}"
    return (f"The reference of the trials is {worth}: the verdict is too cautious.",)


def _notes_on_scene(counts: float, gain: float) -> tuple[str, ...]:
    if counts > _FEW_EVENTS * gain:
        return ()
    held = f"The scene holds {counts:.3g} counts a pixel in all"
    return (f"{held}: fine detail may be lost in its noise, and with it some precision.",)
