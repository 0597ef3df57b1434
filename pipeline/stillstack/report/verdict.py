"""The four answers that head a report, and what to be careful about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillstack.quantities import byte_size, duration
from stillstack.report.provenance import Provenance
from stillstack.summary import Summary, compact_ranges

_MOST_GOOD: Final = 0.9
_FEWEST_GOOD: Final = 0.5
_FITTING_CHI2: Final = (0.6, 1.6)
_STILL_SIGMAS: Final = 6.0


@dataclass(frozen=True)
class Answer:
    """One question, its answer in a word or a number, a sentence more, and how it is marked."""

    question: str
    short: str
    detail: str
    mark: str = "plain"


def answers(
    summary: Summary, provenance: Provenance, reference_std: Sequence[float] | None
) -> list[Answer]:
    """Answer what a laboratory asks: did it work, what is bad, how sure, at what cost."""
    return [
        _did_it_work(summary),
        _what_is_bad(summary),
        _how_sure(summary, reference_std),
        _what_cost(summary, provenance),
    ]


def cautions(summary: Summary, provenance: Provenance) -> list[str]:
    """Say what speaks against taking the numbers at their word."""
    found = []
    if summary.n_pending:
        found.append(
            f"The run is not finished: {summary.n_pending} frames are pending. The same command "
            "finishes it."
        )
    low, high = _FITTING_CHI2
    if np.isfinite(summary.median_chi2) and not low <= summary.median_chi2 <= high:
        found.append(
            f"chi2 is {summary.median_chi2:.2f} for the median frame where 1 is expected: the "
            "frames differ from the reference by something other than a shift and noise, or the "
            "gain is wrong. Take the error bars with care."
        )
    span, sigma = max(summary.drift_range), max(summary.median_std)
    if summary.n_good > 1 and span < _STILL_SIGMAS * sigma:
        found.append(
            f"Nothing moved: all shifts lie within {span:.3g} px. If you expected drift, something "
            "static (a beam-block, hot pixels) is still inside the valid area below."
        )
    if not provenance.attempts:
        found.append("How long the run took is not recorded.")
    return found


def _did_it_work(summary: Summary) -> Answer:
    share = summary.n_good / max(1, summary.n_wanted)
    good = f"{summary.n_good:,} of {summary.n_wanted:,} frames are good"
    if summary.n_excluded:
        good += f" ({summary.n_excluded:,} are left out, as the config says)"
    drift = ""
    if summary.n_good > 1:
        y, x = summary.drift_range
        drift = f" They moved over {y:.3g} px in y and {x:.3g} px in x."
    question = "Did it work?"
    if summary.n_pending:
        return Answer(question, "Not finished", f"{good} so far.{drift}", "warn")
    if share >= _MOST_GOOD:
        return Answer(question, "Yes", f"{good}.{drift}", "good")
    if share >= _FEWEST_GOOD:
        return Answer(question, "In part", f"{good}.{drift}", "warn")
    return Answer(
        question,
        "No",
        f"Only {good}. Check the valid area and max_shift_px before anything else.{drift}",
        "bad",
    )


def _what_is_bad(summary: Summary) -> Answer:
    question = "Which frames are bad?"
    if not summary.n_rejected:
        return Answer(question, "None", "No frame was rejected.", "good")
    share = summary.n_rejected / summary.n_wanted
    unreadable = f" {summary.n_unreadable} could not be read." if summary.n_unreadable else ""
    return Answer(
        question,
        f"{summary.n_rejected:,} ({share:.1%})",
        f"Frames {compact_ranges(summary.rejected)}.{unreadable}",
        "plain" if share <= 1 - _MOST_GOOD else "warn",
    )


def _how_sure(summary: Summary, reference_std: Sequence[float] | None) -> Answer:
    question = "How sure is it?"
    if not np.isfinite(summary.median_std).all():
        return Answer(question, "Not known", "No frame has an error bar.", "warn")
    y, x = summary.median_std
    typical = float(np.hypot(y, x) / np.sqrt(2))
    detail = (
        f"One sigma of a typical shift: {y:.2g} px in y, {x:.2g} px in x. 95 % of the frames are "
        f"better than {summary.high_std[0]:.2g} and {summary.high_std[1]:.2g} px."
    )
    if reference_std is not None and np.isfinite(reference_std).all():
        detail += (
            f" The common origin is known to {reference_std[0]:.2g} and {reference_std[1]:.2g} px."
        )
    return Answer(question, f"± {typical:.2g} px", detail)


def _what_cost(summary: Summary, provenance: Provenance) -> Answer:
    question = "What did it cost?"
    parts = []
    seconds = provenance.seconds
    if seconds:
        parts.append(f"{summary.n_frames / seconds:.3g} frames per second.")
    if provenance.written_bytes:
        parts.append(f"{byte_size(provenance.written_bytes)} of aligned frames were written")
        if provenance.raw_bytes:
            parts[-1] += f", from {byte_size(provenance.raw_bytes)} of raw pixels."
        else:
            parts[-1] += "."
    elif provenance.stages:
        parts.append("Only the table was written.")
    return Answer(question, duration(seconds) if seconds else "Not known", " ".join(parts))
