"""What a config asks of an input, looked at in a few frames before anything is started."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.address import is_address
from stillstack.config import CorrectionConfig, RunConfig, TrajectoryConfig
from stillstack.config.valid import ValidConfig
from stillstack.drift import read_clock
from stillstack.errors import InputError
from stillstack.exclusion import excluded
from stillstack.findings import Findings
from stillstack.network import groups_of
from stillstack.noise import estimate_gain, noise_near_zero
from stillstack.reference import ReferenceMaker
from stillstack.sampling import Sample
from stillstack.sources import CorrectedSource, Source, image_of
from stillstack.valid import check_valid, valid_from_config

_MOST_NEGATIVE: Final = 0.75
_FEW_NEGATIVE: Final = 0.01
_MOST_GAIN: Final = 1000.0


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


def left_out(config: RunConfig, source: Source, found: Findings) -> NDArray[np.bool_]:
    """Find the frames that the section ``exclude`` leaves out; none where it is refused."""
    n_frames = source.shape[0]
    made = found.check(lambda: excluded(config.exclude, source.coords, n_frames))
    if made is None:
        return np.zeros(n_frames, bool)
    if config.exclude.expression is not None and not made.any():
        found.warn(
            f"exclude.expression, {config.exclude.expression!r}, is met by no frame.",
            "No frame is left out.",
        )
    return made


def check_groups(config: RunConfig, source: Source) -> None:
    """Refuse groups and times that the source's coordinates do not make."""
    n_frames = source.shape[0]
    if config.groups is not None:
        groups_of(config.groups, source.coords, n_frames)
    following = config.trajectory
    if following is None or following.coordinate is None:
        return
    if following.coordinate in source.coords:
        read_clock(source.coords[following.coordinate], n_frames, following.order)
    elif following.coordinate != TrajectoryConfig().coordinate:
        there = ", ".join(sorted(source.coords)) or "none"
        raise InputError(
            f"trajectory.coordinate is {following.coordinate}, which the input does not have.",
            cure=f"Use one of its coordinates ({there}), or null for the order of frames.",
        )


def valid_pixels(
    config: RunConfig, source: Source, sample: Sample, found: Findings
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Find the valid pixels of the frames, and of the reference where it has its own."""
    frames, reference = config.valid.frames, config.valid.reference
    recorded = _recorded(source, sample)
    valid = _valid_section(frames, sample, recorded, "valid.frames", found)
    if reference is None or reference == frames:
        return valid, None
    return valid, _valid_section(reference, sample, recorded, "valid.reference", found)


def _recorded(source: Source, sample: Sample) -> NDArray[Any] | None:
    """Frames of a sample as the detector wrote them, where they are corrected; else None."""
    if not isinstance(source, CorrectedSource):
        return None
    return np.concatenate([source.recorded.read(number, number + 1) for number in sample.numbers])


def _valid_section(
    spec: ValidConfig,
    sample: Sample,
    recorded: NDArray[Any] | None,
    name: str,
    found: Findings,
) -> NDArray[np.bool_]:
    """Find the valid pixels that one section asks for; all pixels where it is refused."""
    shape = sample.frames.shape[1:]
    rules = ValidConfig(below=spec.below, above=spec.above, equal=spec.equal)
    plain = spec
    if recorded is not None:  # values are those that the detector wrote
        plain = spec.model_copy(update={"below": None, "above": None, "equal": ()})
    made = found.check(lambda: valid_from_config(plain, shape, image_of, sample.frames, where=name))
    if made is None:
        return np.ones(shape, bool)
    if recorded is not None:
        made &= valid_from_config(rules, shape, sample=recorded)
    few = sample.frames[:: max(1, len(sample.frames) // 5)]
    typical = np.median(few, axis=0)  # NaN where one is: what is not finite is not judged
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


def note_no_data(config: RunConfig, source: Source, sample: Sample, found: Findings) -> None:
    """Warn where pixels hold the value that the input calls "no data", and no rule leaves it out.

    It is not left out by itself: files declare 0 whose detectors count photons.
    """
    raw = source.recorded if isinstance(source, CorrectedSource) else source
    value = raw.attrs.get("invalid_value")
    if value is None or not np.isfinite(value):
        return
    rules, dtype = config.valid.frames, np.dtype(raw.dtype)
    saturated = rules.above is None and dtype.kind in "iu" and value == np.iinfo(dtype).max
    judged = (rules.above is not None and value > rules.above) or (
        rules.below is not None and value < rules.below
    )
    if saturated or judged or value in rules.equal:
        return
    recorded = _recorded(source, sample)
    frames = sample.frames if recorded is None else recorded
    n_pixels = int(np.count_nonzero(frames == value))
    if n_pixels:
        found.warn(
            f"The input declares {value:g} to mean 'no data', and {n_pixels:,} of {frames.size:,} "
            "sampled pixels hold it.",
            "They are taken for counts.",
            f"If they are none: valid.frames.equal: [{value:g}].",
        )


def typical_frame(frames: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of frames (n, y, x), each pixel over those that are finite there; NaN without any."""
    if frames.dtype.kind != "f":
        return np.asarray(frames.mean(axis=0, dtype=np.float64))
    finite = np.isfinite(frames)
    count = finite.sum(axis=0)
    total = np.where(finite, frames, 0).sum(axis=0, dtype=np.float64)
    mean: NDArray[np.float64] = np.full(total.shape, np.nan)
    return np.asarray(np.divide(total, count, out=mean, where=count > 0), np.float64)


def note_correction(
    source: Source, typical: NDArray[np.float64], valid: NDArray[np.bool_], found: Findings
) -> None:
    """Say what is odd about a correction: a dark brighter than the frames, a gain far from one."""
    if not isinstance(source, CorrectedSource):
        return
    images, values = source.correction.images(), typical[valid & np.isfinite(typical)]
    if images.dark is not None and values.size and not values.mean() > 0:
        found.error(
            f"The corrected frames have a mean of {values.mean():.3g} counts: correction.dark, "
            f"with {images.dark[valid].mean():.3g}, is brighter than they are.",
            "Nothing of them would be left.",
            "Give a dark frame of the same exposure, readout and gain as the frames.",
        )
    elif images.dark is not None and values.size and (values < 0).mean() > _MOST_NEGATIVE:
        found.warn(
            f"{(values < 0).mean():.0%} of the valid pixels are negative once they are corrected.",
            "correction.dark may be that of a longer exposure.",
        )
    middle = 1.0 if images.gain is None else float(np.nanmedian(images.gain))
    if not 1 / _MOST_GAIN < middle < _MOST_GAIN:
        found.warn(
            f"Half of the pixels of correction.gain are above {middle:.3g}.",
            "Frames are multiplied with it; an image of an even illumination is its inverse.",
            "Give mean(flat) / flat.",
        )


def note_negative(
    config: RunConfig, frames: NDArray[Any], valid: NDArray[np.bool_], found: Findings
) -> None:
    """Warn where many pixels are negative, which without read noise no count is."""
    if config.registration.read_noise > 0 or frames.dtype.kind == "u":
        return
    few = frames[:8]
    n_negative = sum(int(np.count_nonzero((frame < 0) & valid)) for frame in few)  # NaN is not
    negative = n_negative / max(1, len(few) * int(np.count_nonzero(valid)))
    if negative > _FEW_NEGATIVE:
        noise = noise_near_zero(few, valid)
        seen = "" if noise is None else f", of which {noise:.2g} is seen here"
        found.warn(
            f"{negative:.0%} of the valid pixels of the sampled frames are negative, and "
            "registration.read_noise is 0.",
            "Dark pixels are taken to have no noise: error bars are too short, and good frames may "
            "be rejected.",
            f"Set registration.read_noise, the noise of a dark pixel{seen}.",
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
    if config.correction != CorrectionConfig():
        values = ValidConfig()  # values that do not count are NaN in corrected frames already
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


def fingerprint_of(config: RunConfig, source: Source, given: NDArray[np.void] | None) -> str:
    """Digest of everything that is read: the frames, the images that the config names, shifts."""
    sections = (config.valid.frames, config.valid.reference)
    images = [section.image for section in sections if section is not None]
    digest = hashlib.sha256(source.fingerprint().encode())
    for path in (*images, config.reference.path):
        if path is not None and is_address(path):
            digest.update(image_of(path).tobytes())
        elif path is not None and Path(path).is_file():
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    if given is not None:
        digest.update(given.tobytes())
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
