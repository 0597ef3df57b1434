"""What a config asks of an input, looked at in a few frames before anything is started."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.address import is_address
from stillstack.config import RunConfig
from stillstack.config.valid import ValidConfig
from stillstack.errors import InputError
from stillstack.findings import Findings
from stillstack.noise import estimate_gain
from stillstack.reference import ReferenceMaker
from stillstack.sampling import Sample
from stillstack.sources import Source, image_of
from stillstack.valid import check_valid, valid_from_config


def check_frames(config: RunConfig, source: Source) -> None:
    """Refuse settings that name frames or distances that the source does not have."""
    n_frames, height, width = source.shape
    limit = config.registration.max_shift_px
    if limit >= min(height, width):
        raise InputError(
            f"registration.max_shift_px is {limit}, and the frames are {height} x {width} pixels.",
            consequence="Nothing would be left to compare at such a shift.",
            cure=f"Make it smaller than {min(height, width)}; a quarter of that is plenty.",
        )
    reference = config.reference
    last = max(reference.index or 0, reference.start, (reference.stop or 1) - 1)
    if reference.kind != "image" and last >= n_frames:
        raise InputError(
            f"The section reference names frame {last}, and the input has {n_frames} frames.",
            cure=f"Use frames 0 to {n_frames - 1}.",
        )


def valid_pixels(
    config: RunConfig, sample: Sample, found: Findings
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Find the valid pixels of the frames, and of the reference where it has its own."""
    frames, reference = config.valid.frames, config.valid.reference
    valid = _valid_section(frames, sample, "valid.frames", found)
    if reference is None or reference == frames:
        return valid, None
    return valid, _valid_section(reference, sample, "valid.reference", found)


def _valid_section(
    spec: ValidConfig, sample: Sample, name: str, found: Findings
) -> NDArray[np.bool_]:
    """Find the valid pixels that one section asks for; all pixels where it is refused."""
    shape = sample.frames.shape[1:]
    made = found.check(lambda: valid_from_config(spec, shape, image_of, sample.frames, where=name))
    if made is None:
        return np.ones(shape, bool)
    few = sample.frames[:: max(1, len(sample.frames) // 5)]
    typical = np.median(few, axis=0)
    warnings = found.check(lambda: check_valid(made, typical, name, allow_small=spec.allow_small))
    for warning in warnings or ():
        found.warn(warning)
    return made


def note_sample(sample: Sample, kept: NDArray[np.bool_], found: Findings) -> None:
    """Warn of frames that cannot be read, and of many odd ones."""
    if sample.unreadable:
        number, reason = next(iter(sample.unreadable.items()))
        found.warn(
            f"{len(sample.unreadable)} of {len(sample.unreadable) + len(kept)} sampled frames "
            f"cannot be read; frame {number}: {reason}",
            "Such frames are set aside with the status unreadable.",
        )
    odd = [number for number, keep in zip(sample.numbers, kept, strict=True) if not keep]
    if len(odd) > len(kept) / 4:
        found.warn(
            f"{len(odd)} of {len(kept)} sampled frames are blank, or far brighter or darker than "
            f"the others: frames {', '.join(map(str, odd))}.",
            "They are left out of the reference.",
        )


def gain_of(
    config: RunConfig, frames: NDArray[Any], valid: NDArray[np.bool_], found: Findings
) -> float:
    """Find the counts per detected event, as the config says or from the noise of the frames."""
    chosen = config.registration.gain
    if not isinstance(chosen, str):
        return float(chosen)
    estimate = estimate_gain(frames[:8], valid, read_noise=config.registration.read_noise)
    if estimate is None:
        found.warn(
            "The counts per detected event cannot be told from the sampled frames.",
            "A gain of 1 is assumed; where that is wrong, so are shift_std and chi2.",
            "Set registration.gain in the config.",
        )
        return 1.0
    return estimate


def settings_of(config: RunConfig, gain: float) -> dict[str, Any]:
    """Keywords of `prepare_reference`, as plain values."""
    registration, values = config.registration, config.valid.frames
    return {
        "max_shift_px": registration.max_shift_px,
        "min_overlap": registration.min_overlap,
        "min_ncc": registration.min_ncc,
        "max_peak_ratio": registration.max_peak_ratio,
        "gain": gain,
        "read_noise": registration.read_noise,
        "below": values.below,
        "above": values.above,
        "equal": list(values.equal),
    }


def fingerprint_of(config: RunConfig, source: Source) -> str:
    """Digest of everything that is read: the frames, and the images that the config names."""
    sections = (config.valid.frames, config.valid.reference)
    images = [section.image for section in sections if section is not None]
    digest = hashlib.sha256(source.fingerprint().encode())
    for path in (*images, config.reference.path):
        if path is not None and is_address(path):
            digest.update(image_of(path).tobytes())
        elif path is not None and Path(path).is_file():
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()[:16]


def check_reference(maker: ReferenceMaker, kept: NDArray[np.bool_]) -> None:
    """Refuse a reference that is blank already at first sight."""
    if maker.config.kind in ("first", "index", "image"):
        maker.first_image().refuse_blank()
    elif not kept.any():
        raise InputError(
            "The reference would be blank: none of the sampled frames shows anything.",
            consequence="No frame can be registered to it.",
            cure="Check the input, and the valid pixels of the config.",
        )
