"""One self-contained HTML page for a run."""

from stillstack.report.page import read_checks, report_path, write_report

__all__ = ["read_checks", "report_path", "write_report"]
