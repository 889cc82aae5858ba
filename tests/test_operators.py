"""Which libraries are loaded, and what stands in for one that is missing: by packages in processes of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastcam import ops

PACKAGE = Path(ops.__file__).parent
CODE = """
import warnings
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    import torch
    from fastcam import ops, reference
torch.manual_seed(0)
coarse = torch.randn(3, 7, 7)
assert torch.equal(ops.boxes(coarse, 64, [0.2, 0.5]), reference.boxes(coarse, 64, [0.2, 0.5]))
weights = torch.randn(2, 5, requires_grad=True)
ops.class_map(torch.randn(2, 5, 3, 3), weights).sum().backward()
assert weights.grad.abs().sum() > 0
for one in heard:
    if "fastcam" in str(one.message):
        print(one.category.__name__, one.message)
print(ops.build_info())
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the package without libraries."""
    shutil.copytree(PACKAGE, tmp_path / "fastcam", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path / "fastcam"


def run(package: Path, code: str = CODE, **variables: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTCAM_", "PYTHON"))}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=package.parent, env=kept | variables, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_without_a_library_the_twins_stand_in_and_say_so_once(package):
    heard, facts = run(package)
    assert heard.startswith("RuntimeWarning fastcam runs without its kernels (none was built: run `pip install .`")
    assert "'library': None" in facts
    assert "'cpu_simd': 'none'" in facts


def test_a_library_that_does_not_load_is_named_with_its_reason(package):
    (package / "_C.abi3.so").write_bytes(b"no library")
    heard, facts = run(package)
    assert heard.startswith(f"RuntimeWarning fastcam runs without its kernels ({package}/_C.abi3.so does not load")
    assert "invalid ELF header" in heard or "file too short" in heard
    assert "'library': None" in facts


@pytest.mark.kernels
def test_a_variable_leaves_the_library_alone(package):
    os.symlink(ops.build_info()["library"], package / "_C.abi3.so")
    heard, facts = run(package, FASTCAM_EXTENSION="0")
    assert heard.startswith("RuntimeWarning fastcam runs without its kernels (FASTCAM_EXTENSION=0)")
    (facts,) = run(package)
    assert f"'library': '{package}/_C.abi3.so'" in facts


@pytest.mark.kernels
def test_without_the_kernels_for_gpus_the_others_run(package):
    if not ops.build_info()["cuda_built"]:
        pytest.skip("needs a build with CUDA")
    os.symlink(ops.build_info()["library"], package / "_C.abi3.so")
    (facts,) = run(package)
    assert "not loaded: they were not built" in facts
    (package / "_C_cuda.abi3.so").write_bytes(b"no library")
    heard, facts = run(package)
    assert heard.startswith("RuntimeWarning fastcam runs without its kernels for GPUs (")
    assert "_C_cuda.abi3.so does not load with torch" in heard
    assert "'cuda_library': None" in facts
    assert "'cpu_simd': 'none'" not in facts


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("version", "reason"),
    [("None", "this torch is a CPU build"), ("'12.8'", "they were built with CUDA 13, this torch has 12.8")],
)
def test_kernels_of_another_cuda_are_not_loaded(package, version, reason):
    if not str(ops.build_info()["cuda_reason"]).startswith("nvcc 13"):
        pytest.skip("needs a build with CUDA 13")
    os.symlink(ops.build_info()["library"], package / "_C.abi3.so")
    os.symlink(PACKAGE / "_C_cuda.abi3.so", package / "_C_cuda.abi3.so")
    facts = run(package, f"import torch; torch.version.cuda = {version}\n{CODE}")[-1]
    assert f"not loaded: {reason}" in facts
    assert "'cuda_library': None" in facts


def test_an_unknown_instruction_set_is_refused(package):
    code = "import pytest\nwith pytest.raises(ImportError, match='FASTCAM_SIMD must be portable, avx2 or avx512'):\n"
    run(package, f"{code}    from fastcam import ops", FASTCAM_SIMD="sse")
