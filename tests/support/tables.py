"""Tables of boxes as a run writes them, made without its code."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [("image_id", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("rank", pa.int32())]
    + [("class_id", pa.int32()), ("class_name", pa.string()), ("score", pa.float32())]
    + [(edge, pa.float32()) for edge in ("x0", "y0", "x1", "y1")]
    + [("status", pa.string()), ("error", pa.string()), ("box", pa.int32()), ("box_score", pa.float32())]
    + [("orientation", pa.int8()), ("decoder", pa.string())]
)
CAM = [("cam", pa.binary()), ("cam_height", pa.int32()), ("cam_width", pa.int32())]
INFO = {"version": "9", "arch": "tiny", "method": "cam", "threshold": 0.2, "relu": None, "mode": "bilinear"}
INFO |= {"size": 64, "resize": "squash"}


def row(
    id, box=(0, 0, 0, 0), class_id=0, name=None, size=(200, 100), rank=1, score=0.5, number=1, box_score=None, cam=None
):
    """One row of a picture that went well."""
    values = {"image_id": id, "width": size[0], "height": size[1], "rank": rank, "class_id": class_id}
    values |= {"class_name": name, "score": score, "orientation": 1, "decoder": "pillow", "status": "ok"}
    values |= {"box": number, "box_score": score if box_score is None else box_score}
    values |= dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
    if cam is not None:
        values |= {"cam": cam.tobytes(), "cam_height": cam.shape[0], "cam_width": cam.shape[1]}
    return values


def error(id):
    """The row of a picture that could not be read."""
    return {"image_id": id, "status": "error", "error": "truncated: 3 bytes are missing"}


def write(path: Path, rows, info=INFO, group=3, cams=False) -> Path:
    """A run with these rows; its folder."""
    path.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([*SCHEMA, *(CAM if cams else ())], metadata={"fastcam": json.dumps(info)})
    pq.write_table(pa.Table.from_pylist(rows, schema), path / "boxes.parquet", row_group_size=group)
    return path


def random_boxes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """float32 [count, 4], xyxy inside the picture, at least two pixels wide and high."""
    sides = np.array(size)
    low = rng.uniform(0, sides - 3, (count, 2))
    return np.concatenate([low, rng.uniform(low + 2, sides)], 1).astype(np.float32)
