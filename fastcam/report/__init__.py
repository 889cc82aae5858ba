"""Self-contained HTML pages: galleries of pictures and maps, and the report of a run."""

from fastcam.report.galleries import Item, gallery
from fastcam.report.runs import Summary, write_report

__all__ = ["Item", "Summary", "gallery", "write_report"]
