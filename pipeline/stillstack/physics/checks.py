"""How good an alignment is, by means that the alignment did not use."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from stillstack.physics.residual_shift import ResidualShift, residual_shift
from stillstack.physics.ring_correlation import RingCorrelation, ring_correlation
from stillstack.physics.sharpness import Sharpness, sharpness
from stillstack.physics.windows import AnyImage, Valid, common_area


@dataclass(frozen=True, eq=False)
class Halves:
    """Means of odd and of even frames (y, x): the same scene, independent noise.

    NaN where no frame counted.
    """

    odd: AnyImage
    even: AnyImage


@dataclass(frozen=True, eq=False)
class Stretches:
    """Means of successive stretches of a run (part, y, x), and their numbers of frames."""

    means: AnyImage
    n_frames: ArrayLike | None = None


@dataclass(frozen=True, eq=False)
class Checks:
    """What the checks found; None for those whose data were not given.

    Parameters
    ----------
    rings
        Fourier ring correlation of the aligned halves.
    before, after
        Sharpness of the mean as recorded and aligned, over the same pixels.
    residual
        What shift each stretch of the run is left with.
    held_out
        The same where these pixels were not shown to the registration that moved them.
    """

    rings: RingCorrelation
    before: Sharpness | None
    after: Sharpness
    residual: ResidualShift | None = field(default=None)
    held_out: ResidualShift | None = field(default=None)

    @property
    def sharpness_gain(self) -> float:
        """Sharpness aligned over sharpness as recorded; NaN if unknown."""
        if self.before is None or not self.before.value > 0:
            return float("nan")
        return self.after.value / self.before.value

    @property
    def sharpness_gain_std(self) -> float:
        """1-sigma uncertainty of the gain, the two taken as independent."""
        if self.before is None or not self.before.value > 0:
            return float("nan")
        relative = np.hypot(self.after.std / self.after.value, self.before.std / self.before.value)
        return float(abs(self.sharpness_gain) * relative)

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, for attributes and JSON; NaN where a check was not made."""
        nan = float("nan")
        before = self.before or Sharpness(nan, nan)
        residual, held = self.residual, self.held_out
        return {
            "resolution_half_bit_px": self.rings.resolution_half_bit_px,
            "resolution_one_seventh_px": self.rings.resolution_one_seventh_px,
            "sharpness_before": before.value,
            "sharpness_before_std": before.std,
            "sharpness_after": self.after.value,
            "sharpness_after_std": self.after.std,
            "sharpness_gain": self.sharpness_gain,
            "sharpness_gain_std": self.sharpness_gain_std,
            "residual_rms_px": nan if residual is None else residual.rms_px,
            "residual_noise_px": nan if residual is None else residual.noise_px,
            "residual_excess_px": nan if residual is None else residual.excess_px,
            "held_out_rms_px": nan if held is None else held.rms_px,
            "held_out_noise_px": nan if held is None else held.noise_px,
            "held_out_excess_px": nan if held is None else held.excess_px,
        }


def check_alignment(
    aligned: Halves,
    *,
    recorded: Halves | None = None,
    stretches: Stretches | None = None,
    valid: Valid | None = None,
    region: Valid | None = None,
) -> Checks:
    """Independent evidence of how well a run is aligned, from a few of its means.

    Parameters
    ----------
    aligned
        Means of the odd and the even good frames, aligned.
    recorded
        The same frames as recorded, for the sharpness before.
    stretches
        Means of aligned frames of successive stretches, such as tenths of the run, for the shift
        that each is left with.
    valid
        Valid pixels (y, x) of the frames as recorded, True where a pixel counts. Sharpness is
        compared over these alone; what drift has filled in behind the block has no before.
    region
        Pixels in which residual shifts are looked for, such as a part that registration was not
        shown: then that check shares no pixel with it. All, if None.

    Returns
    -------
    Checks

    Raises
    ------
    InputError
        If shapes differ, or hardly any pixel is known in all images.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y, x = np.mgrid[:96, :96]
    >>> scene = 50 + 40 * np.cos(0.5 * x) * np.cos(0.4 * y)
    >>> checks = check_alignment(Halves(rng.poisson(scene) * 1.0, rng.poisson(scene) * 1.0))
    >>> checks.rings.resolution_half_bit_px < 13
    True
    """
    shown = None if valid is None else np.asarray(valid, bool)
    before = None
    if recorded is not None:
        # One area for both: sharpness differs from place to place.
        shown = common_area(recorded.odd, recorded.even, aligned.odd, aligned.even, valid=shown)
        before = sharpness(recorded.odd, recorded.even, shown)
    left = None
    if stretches is not None:
        left = residual_shift(stretches.means, region=region, n_frames=stretches.n_frames)
    return Checks(
        rings=ring_correlation(aligned.odd, aligned.even),
        before=before,
        after=sharpness(aligned.odd, aligned.even, shown),
        residual=left,
    )
