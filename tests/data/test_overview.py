"""What a data set holds."""

import numpy as np

from fastcam import data
from tests.support.datasets import MAKERS, jpeg


def test_info(tmp_path) -> None:
    MAKERS["wsol"](tmp_path)
    found = data.info(tmp_path, progress=False)
    assert found.classes == [("cat", 1), ("dog", 0), ("owl", 1)]
    assert (found.pictures, found.resized, found.boxed, found.masked) == (2, 2, 2, 0)
    assert (found.width, found.height) == ((10, 10, 10), (10, 10, 10))
    assert found.boxes == (1, 1.5, 2)
    np.testing.assert_allclose(found.box_share, (1.5 * 2 / 1200, 2 * 2 / 1000, 40 * 29 / 1200))
    assert (found.malformed, found.damaged) == ([], [])
    told = data.info(tmp_path, decode=False, progress=False)
    assert (told.width, told.height, told.resized) == ((40, 45, 50), (20, 25, 30), 0)
    (tmp_path / "val/ü.jpg").write_bytes(jpeg()[:100])
    (tmp_path / "val/a, b.jpg").unlink()
    found = data.info(tmp_path, progress=False)
    assert [id for id, _ in found.malformed] == ["val/a, b.jpg"]
    assert [id for id, _ in found.damaged] == ["val/ü.jpg"]
    assert found.width is None
    assert "malformed       1" in found.lines()
    drawn = data.info("shapes", "val", progress=False)
    assert drawn.masked == drawn.boxed == 400
    share = [data.load("shapes", "val").truth(i).mask.mean() for i in range(400)]
    np.testing.assert_allclose(drawn.mask_share, (np.min(share), np.median(share), np.max(share)))
