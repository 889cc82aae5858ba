"""The benchmarks: contestants that compute the same, and commands that run; figures are not tested."""

import os
import re
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fastcam import _memory, cli, ops, reference
from fastcam.bench import cpu, gpu, operators

ROOT = Path(__file__).resolve().parents[2]
LEVELS = [int(255 * threshold) for threshold in operators.EVALUATOR_THRESHOLDS]


@pytest.fixture(autouse=True)
def _memory_as_it_was(monkeypatch):
    monkeypatch.setattr(_memory, "keep_memory", lambda: None)


def test_alternatives_give_what_fastcam_gives():
    features, weights = operators.activations(6, 512, 7)
    coarse = ops.class_map(features, weights)
    torch.testing.assert_close(operators.einsum_class_map(features, weights), coarse)
    torch.testing.assert_close(operators.torch_heatmap(coarse, 224), ops.heatmap(coarse, 224))
    bytes_apart = (
        operators.torch_heatmap(coarse, 224, dtype=torch.uint8).int()
        - ops.heatmap(coarse, 224, dtype=torch.uint8).int()
    )
    assert bytes_apart.abs().max() <= 1
    found = ops.boxes(coarse, 224).tolist()
    assert [list(box) for box in operators.opencv_boxes(coarse, 224)] == found
    assert [list(box) for box in operators.skimage_boxes(coarse, 224)] == found
    assert [list(box) for box in operators.opencv_class_boxes(features, weights, 224)] == found
    nothing = -torch.ones(1, 7, 7)  # no pixel is above the threshold
    assert operators.opencv_boxes(nothing, 20) == operators.skimage_boxes(nothing, 20) == [(0, 0, 0, 0)]


def test_alternative_pictures_are_as_bright():
    picture = torch.randint(0, 256, (90, 70, 3), dtype=torch.uint8)
    found = ops.resize(picture, 32)
    for alternative in (operators.pillow_resize, operators.torch_resize):
        assert (alternative(picture, 32).int() - found.int()).abs().max() <= 1


def test_alternative_components_are_as_many_and_as_large():
    masks = operators.random_masks(5, 60)
    _, areas, image = ops.components(masks)
    of_opencv = [operators.opencv_components_16_bit(masks, key) for key in operators.OPENCV_ALGORITHMS.values()]
    for stats in (operators.opencv_components(masks), *of_opencv):
        for index, (count, _, table, _) in enumerate(stats):
            assert sorted(table[1:count, 4]) == sorted(areas[image == index].tolist())
    for index, regions in enumerate(operators.skimage_components(masks)):
        assert sorted(region.area for region in regions) == sorted(areas[image == index].tolist())


def test_components_of_kornia_are_as_many_and_as_large():
    pytest.importorskip("kornia_rs")
    masks = operators.random_masks(5, 60)
    _, areas, image = ops.components(masks)
    for index, (count, labels) in enumerate(operators.kornia_components(masks)):
        assert sorted(np.bincount(labels.ravel(), minlength=count)[1:]) == sorted(areas[image == index].tolist())


def test_components_of_cc3d_are_as_many_and_as_large():
    pytest.importorskip("cc3d")
    masks = operators.random_masks(5, 60)
    _, areas, image = ops.components(masks)
    for index, stats in enumerate(operators.cc3d_components(masks)):
        assert sorted(stats["voxel_counts"][1:]) == sorted(areas[image == index].tolist())


def test_alternative_curves_are_equal_at_the_evaluators_thresholds():
    maps = torch.cat([operators.noisy_maps(3, 60), torch.zeros(1, 60, 60)])
    truths, owners = operators.truth_boxes(4, 60)
    truths, owners = torch.cat([truths, truths[:1] / 2]), torch.cat([owners, owners[:1]])
    expected = ops.box_curves(maps).numpy()
    expected[3, 1:] = expected[3, :1]  # the highest level is 0, and so are all thresholds
    np.testing.assert_array_equal(operators.opencv_box_curves(maps), expected[:, LEVELS])
    for contours in ("largest", "all"):
        expected = ops.iou_curves(maps, truths, owners, contours=contours).numpy()
        expected[3, 1:] = expected[3, :1]
        np.testing.assert_array_equal(
            operators.opencv_iou_curves(maps, truths, owners, contours=contours), expected[:, LEVELS]
        )
    without = operators.opencv_iou_curves(maps[:1], truths[:0], owners[:0], contours="all")
    assert not without.any()


def test_alternative_histograms_are_equal():
    maps, masks = operators.noisy_maps(3, 60), operators.truth_masks(3, 60)
    assert masks.unique().tolist() == [0, 1, 255]
    for scores in (maps, maps.double()):
        expected = ops.score_histograms(scores, masks)
        assert expected[:, 1].sum() == (masks == 1).sum()
        np.testing.assert_array_equal(operators.numpy_score_histograms(scores, masks), expected.numpy())
        assert torch.equal(operators.torch_score_histograms(scores, masks), expected)


def test_alternative_refinement_is_close():
    maps, images = operators.REFINE.cpu[0].inputs(2, "cpu")
    maps, images = maps[..., :30, :40], images[..., :30, :40]
    torch.testing.assert_close(operators.torch_refine(maps, images), ops.refine(maps, images), atol=1e-5, rtol=0)


def test_turns_are_interleaved_and_the_median_counts(monkeypatch):
    order, now, waits = [], 0, iter([50, 3, 20, 1, 4])
    monkeypatch.setattr(cpu, "time", SimpleNamespace(perf_counter=lambda: now))

    def turn(name, seconds):
        nonlocal now
        order.append(name)
        now += seconds

    contestants = {"slow": lambda: turn("slow", next(waits)), "fast": lambda: turn("fast", 2)}
    medians = cpu.interleaved(contestants, 0, 4, lambda name: turn(f"for {name}", 100))
    assert order == ["for slow", "slow", "for fast", "fast"] * 5
    assert medians == {"slow": 3.5, "fast": 2}
    waits = repeat(98)
    cpu.interleaved(contestants, 7000, 1, lambda name: turn(f"for {name}", 100))
    assert order.count("slow") == 5 + 1 + 24  # of 300 seconds each


def test_command_prints_the_table_and_writes_it(tmp_path):
    threads = torch.get_num_threads()
    out = tmp_path / "table.md"
    result = CliRunner().invoke(cli.app, ["bench", "--threads", "2", "--images", "2", "--quick", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_text(encoding="utf-8") == result.stdout
    assert torch.get_num_threads() == threads
    machine, _, _, _, header, rule, *rows = result.stdout.splitlines()
    assert all(text in machine for text in (ops.build_info()["cpu_simd"], torch.__version__, "1 and 2 threads", "2 im"))
    assert len({line.count("|") for line in (header, rule, *rows)}) == 1
    assert len(rows) == len(list(cpu._headlines(2)))
    assert len({row.split(" | ")[0] for row in rows}) == 8
    for row in rows:
        figures = [float(text) for text in re.findall(r"(?<=\| )[\d.]+(?= \|)", row)]
        assert len(figures) == 7
        assert figures[0] > 0


def test_command_with_one_thread_has_no_other_columns():
    result = CliRunner().invoke(cli.app, ["bench", "--threads", "1", "--images", "1", "--quick"])
    assert result.exit_code == 0, result.output
    assert "threads" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "none"], "--threads must be a positive number or all, got 'none'"),
        (["--threads", "0"], "--threads must be"),
        (["--out", "nowhere/table.md"], "there is no folder nowhere"),
    ],
)
def test_command_refuses_what_it_cannot_do(arguments, message):
    result = CliRunner().invoke(cli.app, ["bench", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_opencv_only_what_needs_none_is_measured(monkeypatch):
    for module in (cpu, operators):
        monkeypatch.setattr(module, "has", lambda library: library != "cv2")
    lines = list(cpu.table(threads=1, images=1, quick=True))
    assert len([line for line in lines if line.startswith("| coarse")]) == 1
    assert "OpenCV is not installed" in lines[-1]


def test_table_refuses_no_images():
    with pytest.raises(ValueError, match="got 1 and 0"):
        next(cpu.table(1, 0))


@pytest.mark.parametrize("moved", [1, 2, 1023, 1024, 100_353])
def test_the_copy_beside_an_operator_is_of_as_many_bytes_and_aligned(moved):
    halves = gpu._halves(3, moved, "cpu")
    assert halves.shape == (2, 3, max(1, moved // 2))
    first = halves.data_ptr()
    for half in halves:
        for row in half:
            assert row.is_contiguous()
            assert (row.data_ptr() - first) % 512 == 0


def test_the_table_has_every_operator_and_runs_each_of_its_contestants():
    names = [operator.call.__name__ for operator in operators.OPERATORS]
    assert names == [name for name in vars(reference) if name in names] == operator_names()
    for operator in operators.OPERATORS:
        assert operator.cpu
        for work in [operator.cpu[0], *operator.gpu[: operator.brief]]:
            inputs = work.inputs(1, "cpu")
            work.ours()(*inputs)
            for other in [*work.others(), *work.twins()]:
                other.call(*inputs)
    assert len(gpu.works()) < len(gpu.works(full=True))


def operator_names() -> list[str]:
    """Functions of `fastcam.ops` that call an operator, in their order."""
    made = [name for name, item in vars(ops).items() if getattr(item, "__module__", "") == ops.__name__]
    return [name for name in made if not name.startswith("_") and name != "build_info"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_gpu_benchmark_says_that_there_is_no_gpu():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 2
    assert result.stderr.strip() == "benchmarks.gpu: no GPU that torch can use"


def test_the_suite_is_collected_when_asked_for_only():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    options = {"cwd": ROOT, "env": alone, "capture_output": True, "text": True, "timeout": 300, "check": False}
    asked = subprocess.run([*command, "benchmarks"], **options)
    assert asked.returncode == 0, asked.stdout
    assert "benchmarks/test_operators.py::test_speed" in asked.stdout
