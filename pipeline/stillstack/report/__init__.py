"""One self-contained HTML page for a run."""

from stillstack.report.page import report_path, write_report

__all__ = ["report_path", "write_report"]
