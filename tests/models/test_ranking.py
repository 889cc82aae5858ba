"""The one rule for ranks, also where outputs tie."""

import pytest
import torch

from fastcam.models.ranking import highest, ranks_of
from tests.support import oracle

ROWS = {
    "all tie": [0.0] * 30,
    "pairs": [float(c // 2 % 7) for c in range(30)],
    "two at the border": [5.0, 1, 4, 3, 3, 2, *[0] * 24],
    "two zeros": [0.0, -0.0, -1, 0.0, *[-2] * 26],
    "infinite": [float("-inf")] * 10 + [float("inf")] * 10 + [1.0] * 10,
    "none ties": [float(-((c * 7) % 30)) for c in range(30)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ROWS)
def test_ranks_are_those_of_a_stable_order(name: str, dtype: torch.dtype, device: torch.device) -> None:
    outputs = torch.tensor([ROWS[name], ROWS["none ties"]], dtype=dtype, device=device)
    order = [sorted(range(30), key=lambda c, row=row: (-row[c], c)) for row in outputs.tolist()]
    for count in (1, 2, 4, 5, 29, 30):
        found = highest(outputs, count)
        assert found.tolist() == [row[:count] for row in order]
        assert ranks_of(outputs, found).tolist() == [list(range(1, count + 1))] * 2
    every = ranks_of(outputs, torch.arange(30, device=device).expand(2, 30))
    assert every.tolist() == [[oracle.rank(row, c) for c in range(30)] for row in outputs.tolist()]
    assert outputs.argmax(1).tolist() == [row[0] for row in order]


def test_no_pictures() -> None:
    for count in (1, 3):
        assert highest(torch.zeros(0, 4), count).shape == (0, count)
    assert ranks_of(torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2)
