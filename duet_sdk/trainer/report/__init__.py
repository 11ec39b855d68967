"""`duet train report`: one page with a run's curves, decisions and samples; no script, nothing fetched."""

from duet_sdk.trainer.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
