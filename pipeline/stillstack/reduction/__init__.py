"""Averages of aligned frames with errors and coverage, made of raw frames and shifts.

A reduction, from top to bottom: ``reduce`` (what is asked for, refused or begun), ``selection``
(which frames, in which groups), ``pieces`` (which frames a task reads), ``tasks`` (the graph),
``sums`` (what a task does), ``summary_images`` (what is made of sums), and the two ways to have
it, ``lazy`` and ``written``. ``virtual`` is the aligned stack that was never written.
"""

from stillstack.reduction.reduce import ReductionOptions, reduce_run
from stillstack.reduction.request import DEFAULT_STATISTICS, STATISTICS

__all__ = ["DEFAULT_STATISTICS", "STATISTICS", "ReductionOptions", "reduce_run"]
