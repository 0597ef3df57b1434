"""Everything trials need, made out of the user's frames: a scene, references, noise, shifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.assess.halves import Compute, Division, Halves, divided_sums, register_spread
from stillstack.assess.ladder import MORE, OWN
from stillstack.assess.moving import moving_scene
from stillstack.assess.thinning import Noise, thin
from stillstack.assess.trials import Bench
from stillstack.errors import InputError
from stillstack.kernels.registration import Reference, prepare_reference
from stillstack.model import Status, is_good
from stillstack.plan import Plan
from stillstack.reference import ReferenceImage, ReferenceMaker
from stillstack.sampling import spread_numbers
from stillstack.scene import generator

_FRAMES: Final = 64
_MOST_FRAMES: Final = 256
_FEWEST_FRAMES: Final = 2
# What the reference may take of the events: the scene needs the rest.
_MOST_SHARE: Final = 0.5
_MIN_COVERAGE: Final = 0.5
# A gain so near one is one: a detector that counts.
_COUNTING: Final = 0.05
_THIN_STREAM: Final = 2**61
_FEW_EVENTS: Final = 50.0
_NAMED_FRAMES: Final = 5


@dataclass(frozen=True, eq=False)
class Material:
    """What trials are made of.

    Parameters
    ----------
    bench
        The scene, and what stands still.
    image, valid
        (y, x) reference at the data's own dose, counts, and its valid pixels.
    n_reference
        Frames that its noise is worth.
    fixed
        Whether it is an image of the user's, the same at any dose.
    settings
        Keywords of `prepare_reference`.
    dose
        Mean counts of a valid pixel.
    most
        Highest dose at which frames do not saturate, in units of the data's own.
    n_frames
        Frames that went into the scene.
    frames_std
        (y, x) median of the error bars of the user's own frames, px.
    notes
        What there is to say.
    token
        Names all this in graphs.
    seed
        Of all noise.
    """

    bench: Bench
    image: NDArray[np.float64]
    valid: NDArray[np.bool_]
    n_reference: float
    fixed: bool
    settings: dict[str, Any]
    dose: float
    most: float
    n_frames: int
    frames_std: tuple[float, float]
    notes: tuple[str, ...]
    token: str
    seed: int

    @property
    def noise(self) -> Noise:
        """Counts per event, and read noise."""
        return self.bench.noise

    def reference_at(self, factor: float) -> Reference:
        """Return the reference that a run at another dose would have made.

        A mean of fewer events is a thinned sum; of more, there is none, and the one there is
        stands for fewer frames.

        Raises
        ------
        InputError
            If nothing in it stands out of the noise.
        """
        if self.fixed or factor == OWN:
            return self.prepared(self.image, self.n_reference)
        if factor > OWN:
            return self.prepared(self.image * factor, self.n_reference / factor)
        gain, read_noise = self.noise
        rng = generator(self.seed, _THIN_STREAM + round(1e6 * factor))
        part = thin(self.image * self.n_reference, factor, (gain, 0.0), rng)
        # less light makes no less read noise: what thinning took of it is given back
        lost = read_noise * np.sqrt(self.n_reference * (1.0 - factor**2))
        part += rng.normal(0.0, lost, part.shape) if read_noise > 0.0 else 0.0
        return self.prepared(part / self.n_reference, self.n_reference)

    def prepared(self, image: NDArray[np.float64], n_frames: float) -> Reference:
        """Make an image ready with the user's settings."""
        return prepare_reference(
            image, self.valid, frame_valid=self.bench.valid, n_frames=n_frames, **self.settings
        )


def gather(plan: Plan, seed: int, compute: Compute) -> Material:
    """Make a reference and a scene that share no noise out of the frames of a plan.

    Raises
    ------
    InputError
        If under two frames can be registered, or they show no counts.
    """
    maker = ReferenceMaker(
        plan.source, plan.config.reference, plan.valid, plan.reference_valid, plan.settings, compute
    )
    made = maker.make()
    start = maker.prepared(made)
    kind = _kind_of(plan)
    numbers = _numbers(plan, made, kind)
    table = register_spread(plan.source, numbers, start, compute)
    kept = np.flatnonzero(is_good(table["status"].values))
    _refuse_few(kept.size, table["status"].values, numbers)
    noise = (_gain_of(plan), plan.read_noise)
    share = 0.0 if kind != "summed" else min(_MOST_SHARE, made.n_frames / kept.size)
    as_they_lie = kind == "summed" and plan.config.reference.refine == 0
    good = table.isel(frame=kept)
    halves = divided_sums(
        plan.source,
        tuple(numbers[i] for i in kept),
        good,
        start,
        Division(share, noise, seed, as_they_lie),
        compute,
    )
    image, valid, n_reference = _reference_of(made, halves, share, plan)
    known = halves.scene_count > 0
    mean = halves.scene_part / ((1.0 - share) * np.maximum(halves.scene_count, 1))
    dose = float(mean[known & plan.valid].mean()) if (known & plan.valid).any() else 0.0
    _refuse_dark(dose)
    shifts = good["shift"].values
    other = np.where(valid, image, mean)
    scene = moving_scene(mean, known, other, float(np.abs(shifts).max()) + 1.0)
    bench = Bench(
        scene=scene,
        valid=plan.valid,
        behind=np.maximum(np.nan_to_num(plan.typical, posinf=0.0, neginf=0.0), 0.0),
        shifts=shifts,
        noise=noise,
        dtype=np.dtype(plan.source.dtype).newbyteorder("="),
        seed=seed,
    )
    frames_std = np.median(good["shift_std"].values, axis=0)
    return Material(
        bench=bench,
        image=image,
        valid=valid,
        n_reference=n_reference,
        fixed=kind == "image",
        settings=plan.settings,
        dose=dose,
        most=MORE if _fits(plan, mean[known & plan.valid] * MORE) else OWN,
        n_frames=int(kept.size),
        frames_std=(float(frames_std[0]), float(frames_std[1])),
        notes=_notes(plan, made, n_reference, numbers, good, dose * kept.size * (1.0 - share)),
        token=f"{plan.fingerprint}-{start.digest}-{seed}",
        seed=seed,
    )


def _kind_of(plan: Plan) -> str:
    """Whether the reference is an ``image`` of the user's, a ``single`` frame, or ``summed``."""
    config = plan.config.reference
    if config.refine > 0 or config.kind in ("mean", "median"):
        return "summed"
    return "image" if config.kind == "image" else "single"


def _numbers(plan: Plan, made: ReferenceImage, kind: str) -> tuple[int, ...]:
    """Frames that are added up: enough of them that the reference can have its own in full."""
    config, n_frames = plan.config.reference, plan.source.shape[0]
    stop = min(config.stop or n_frames, n_frames)
    wanted = min(max(_FRAMES, round(made.n_frames / _MOST_SHARE)), _MOST_FRAMES)
    numbers = spread_numbers(config.start, stop, wanted)
    if kind != "single":
        return numbers
    own = 0 if config.kind == "first" else int(config.index or 0)
    return tuple(number for number in numbers if number != own)


def _reference_of(
    made: ReferenceImage, halves: Halves, share: float, plan: Plan
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """Reference of the trials: its image, valid pixels, and the frames that it is worth."""
    if share == 0.0:  # one frame or an image, which is not among the frames of the scene
        return made.image.astype(np.float64), made.valid, float(made.n_frames)
    count = halves.reference_count
    valid = count >= max(1.0, _MIN_COVERAGE * float(count.max(initial=0)))
    image = halves.reference_part / (share * np.maximum(count, 1))
    n_frames = share * float(np.median(count[valid]))
    if plan.reference_valid is not None:
        valid &= plan.reference_valid
    return image, valid, n_frames


def _gain_of(plan: Plan) -> float:
    integer = np.issubdtype(np.dtype(plan.source.dtype), np.integer)
    return 1.0 if integer and abs(plan.gain - 1.0) < _COUNTING else plan.gain


def _fits(plan: Plan, counts: NDArray[np.float64]) -> bool:
    """Whether next to no pixel would be taken for saturated."""
    dtype, above = np.dtype(plan.source.dtype), plan.settings["above"]
    highest = np.inf if above is None else above
    if np.issubdtype(dtype, np.integer):
        highest = min(highest, np.iinfo(dtype).max)
    return bool(np.quantile(counts, 0.999) < highest)


def _refuse_few(n_good: int, status: NDArray[Any], numbers: tuple[int, ...]) -> None:
    if n_good >= _FEWEST_FRAMES or (n_good == 1 and len(numbers) == 1):
        return
    bad = [
        f"frame {number}: {', '.join(w.name.lower() for w in Status if bits & w and w.name)}"
        for number, bits in zip(numbers, status.tolist(), strict=True)
        if not is_good(bits)
    ]
    raise InputError(
        f"{n_good} of {len(numbers)} frames that were tried can be registered "
        f"({'; '.join(bad[:_NAMED_FRAMES])}{'; ...' if len(bad) > _NAMED_FRAMES else ''}).",
        consequence="There is no scene to try registration with.",
        cure="Look at these frames, the valid pixels and registration.max_shift_px; "
        "stillstack plan draws what counts.",
    )


def _refuse_dark(dose: float) -> None:
    if not dose > 0.0:
        raise InputError(
            f"The valid pixels of the aligned frames have a mean of {dose:.3g} counts.",
            consequence="Photon noise cannot be drawn, and there is no dose to name.",
            cure="Give frames of counts, before any background is subtracted.",
        )


def _notes(
    plan: Plan,
    made: ReferenceImage,
    n_reference: float,
    numbers: tuple[int, ...],
    good: xr.Dataset,
    counts: float,
) -> tuple[str, ...]:
    """Say what makes the verdict weaker."""
    notes = []
    n_good = good.sizes["frame"]
    if n_good < len(numbers):
        notes.append(f"{len(numbers) - n_good} of {len(numbers)} frames are not good; left out.")
    if n_reference < made.n_frames / 1.5:
        notes.append(
            f"The reference of the trials is worth {n_reference:.0f} frames, that of a run "
            f"{made.n_frames}: the verdict is a little too cautious."
        )
    if counts < _FEW_EVENTS * _gain_of(plan):
        notes.append(
            f"The scene holds {counts:.3g} counts a pixel in all: fine detail may be lost in its "
            "noise, which makes the verdict too cautious."
        )
    return tuple(notes)
