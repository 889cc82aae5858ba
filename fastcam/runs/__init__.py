"""The folder of a run and its table of boxes; nothing here needs torch.

folder.py has the names of files and says which are a run's own, schema.py the columns of boxes.parquet and what writes
rows, table.py their one reader, `RunTable`, and maps.py how coarse maps are kept.
"""

from fastcam.runs.schema import SCHEMA, Row
from fastcam.runs.table import FoundBox, FoundPicture, RunTable

__all__ = ["SCHEMA", "FoundBox", "FoundPicture", "Row", "RunTable"]
