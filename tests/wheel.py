"""Tries a wheel in fresh environments, with nothing on PATH that compiles, and away from the checkout.

    python tests/wheel.py dist/fastcam-*.whl 2.11.0 2.14.1 2.13.0+cpu

Each further argument is a version of torch; torchvision comes along where pip finds one that goes with it, and without
one what needs none is tried. With the variable ENVIRONMENTS, a folder, environments are kept, and used where they are.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from email.parser import BytesParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = ["tests/ops/test_ops.py", "tests/ops/test_components.py", "tests/ops/test_cuda.py"]  # need no compiler
TESTING = ("pytest", "pytest-benchmark", "hypothesis", "scipy", "scikit-image", "scikit-learn")

# Nothing is said at import where all is well, whatever torch it is: what the libraries do not serve is left alone.
IMPORT = """
import warnings
warnings.simplefilter("error", RuntimeWarning)
from fastcam import _operators, ops
import fastcam, torch
info = ops.build_info()
assert info["library"], info
print("torch", torch.__version__, "with kernels for GPUs:", info["cuda_library"] or info["cuda_reason"])
"""
DRAW = """
import torch, torchvision
from PIL import Image, ImageDraw
for name, box in {"left": (20, 30, 110, 150), "right": (150, 60, 230, 200)}.items():
    picture = Image.new("RGB", (256, 224), "white")
    ImageDraw.Draw(picture).ellipse(box, fill="navy")
    picture.save(f"pictures/{name}.png")
torch.manual_seed(0)
torch.save(torchvision.models.resnet18().state_dict(), "weights.pt")
"""
BOXES = """
import pyarrow.parquet
table = pyarrow.parquet.read_table("run/boxes.parquet").to_pylist()
assert len(table) == 2 and all(row["error"] is None for row in table), table
print("boxes", [[row[name] for name in ("x0", "y0", "x1", "y1")] for row in table])
"""


def requirements(wheel: Path) -> list[str]:
    """What a wheel needs, less torch and torchvision."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        listed = BytesParser().parsebytes(archive.read(name)).get_all("Requires-Dist")
    return [line for line in listed if ";" not in line and not line.startswith("torch")]


def attempt(wheel: Path, torch: str, environment: Path, work: Path) -> None:
    """Install and try a wheel beside one version of torch."""
    if not environment.exists():
        venv.create(environment, with_pip=True)
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CUDA_HOME", "CUDA_PATH", "CXX")}
    variables |= {
        "PATH": str(environment / "bin"),
        "VIRTUAL_ENV": str(environment),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }

    def succeeds(program: str, *arguments: object) -> bool:
        command = [environment / "bin" / program, *map(str, arguments)]
        return not subprocess.run(command, cwd=work, env=variables, check=False).returncode

    def run(program: str, *arguments: object) -> None:
        if not succeeds(program, *arguments):
            raise SystemExit(f"failed beside torch {torch}: {program} {arguments}")

    def pip(*arguments: object) -> None:
        run("python", "-m", "pip", "install", "-q", *arguments)

    whole = succeeds("python", "-m", "pip", "install", "-q", f"torch=={torch}", "torchvision")
    whole = whole and succeeds("python", "-c", "import torchvision")
    if not whole:
        print(f"pip has no torchvision that loads with torch {torch}: what needs none is tried", flush=True)
        pip(f"torch=={torch}")
    start = time.perf_counter()
    pip("--force-reinstall", "--no-deps", wheel)
    alone = time.perf_counter() - start
    pip(*([wheel] if whole else requirements(wheel)))
    together = time.perf_counter() - start
    print(f"installed in {alone:.1f} s; with its dependencies, but torch, in {together:.1f} s", flush=True)
    pip(*TESTING)

    run("python", "-c", IMPORT)
    run("fastcam", "info")
    if whole:
        (work / "pictures").mkdir(exist_ok=True)
        run("python", "-c", DRAW)
        given = ("pictures", "--arch", "resnet18", "--weights", "weights.pt")
        run("fastcam", "localize", *given, "--out", "run", "--overwrite")
        run("python", "-c", BOXES)
    run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *OPERATORS, *whole * ["tests/ops/test_resize.py"])


def main() -> None:
    """Try the wheel that the command line names."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    wheel = Path(sys.argv[1]).resolve(strict=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # The tests without the package: what they import is what was installed.
        shutil.copytree(ROOT / "tests", work / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", work)
        for torch in sys.argv[2:]:
            print(f"\n== torch {torch}", flush=True)
            attempt(wheel, torch, Path(os.environ.get("ENVIRONMENTS", folder)).resolve() / f"torch-{torch}", work)


if __name__ == "__main__":
    main()
