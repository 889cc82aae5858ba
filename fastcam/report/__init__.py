"""Self-contained HTML pages: galleries of pictures and maps, and the report of a run.

`gallery` (gallery.py) is of any pictures. `write_report` (report.py) reads a run: statistics.py counts, truth.py knows
labels and boxes, cards.py chooses pictures and shows them. page.py fills the templates of both.
"""

from fastcam.report.gallery import GalleryItem, gallery
from fastcam.report.report import ReportSummary, write_report

__all__ = ["GalleryItem", "ReportSummary", "gallery", "write_report"]
