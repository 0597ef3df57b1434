"""What trials are made of: a scene, and the reference that a run would have at any dose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.assess.ladder import OWN
from stillstack.assess.thinning import Noise, thin
from stillstack.assess.trials import Bench, draw_frame
from stillstack.errors import InputError
from stillstack.kernels.registration import Reference, prepare_reference
from stillstack.simulation.scene import generator

# Random numbers that neither frames nor trials use.
_STREAM: Final = 2**61
# Frames that all have to be fit to begin a reference with: a run does not choose.
_BEGINNINGS: Final = 5


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
    begun_with_one
        Whether a run begins its reference with a single frame.
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
    begun_with_one: bool
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
        rng = generator(self.seed, _STREAM + 2 * round(1e6 * factor))
        part = thin(self.image * self.n_reference, factor, (gain, 0.0), rng)
        # less light makes no less read noise: what thinning took of it is given back
        lost = read_noise * np.sqrt(self.n_reference * (1.0 - factor**2))
        part += rng.normal(0.0, lost, part.shape) if read_noise > 0.0 else 0.0
        return self.prepared(part / self.n_reference, self.n_reference)

    def begins_at(self, factor: float) -> bool:
        """Whether a run at another dose could begin its reference."""
        if not self.begun_with_one:
            return True
        rng = generator(self.seed, _STREAM + 2 * round(1e6 * factor) + 1)
        middle = np.median(self.bench.shifts, axis=0)
        try:
            for _ in range(_BEGINNINGS):
                frame = draw_frame(self.bench, middle, factor, rng)
                prepare_reference(frame, self.bench.valid, **self.settings)
        except InputError:  # nothing in it stands out of the noise
            return False
        return True

    def prepared(self, image: NDArray[np.float64], n_frames: float) -> Reference:
        """Make an image ready with the user's settings."""
        return prepare_reference(
            image, self.valid, frame_valid=self.bench.valid, n_frames=n_frames, **self.settings
        )
