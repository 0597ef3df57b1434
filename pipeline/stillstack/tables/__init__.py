"""Results of the commands as labelled lines and as plain values for JSON."""

from stillstack.rows import Rows
from stillstack.tables.data import info_rows, reduction_json, reduction_rows, written_rows
from stillstack.tables.plans import doctor_rows, plan_rows, scale_rows
from stillstack.tables.runs import (
    demo_rows,
    run_json,
    run_rows,
    status_rows,
    summary_rows,
    verification_rows,
)

__all__ = [
    "Rows",
    "demo_rows",
    "doctor_rows",
    "info_rows",
    "plan_rows",
    "reduction_json",
    "reduction_rows",
    "run_json",
    "run_rows",
    "scale_rows",
    "status_rows",
    "summary_rows",
    "verification_rows",
    "written_rows",
]
