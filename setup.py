"""Builds two libraries: one for CPUs, and one for GPUs where there is an nvcc of torch's CUDA version."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# What a machine without a GPU builds, if TORCH_CUDA_ARCH_LIST does not say otherwise: PTX, which each GPU from 8.0
# on compiles when it first meets it, and keeps. To compile for one kind here, on a guess, takes a quarter longer.
PTX = "-gencode=arch=compute_80,code=compute_80"


def find_cuda(torch_cuda: str | None) -> tuple[str | None, str]:
    """Root of a CUDA toolkit of torch's major version or None, and the reason."""
    if os.environ.get("FORCE_CUDA") == "0":
        return None, "FORCE_CUDA=0"
    if torch_cuda is None:
        return None, "this torch is a CPU build"
    major = torch_cuda.split(".")[0]
    given = [(os.environ.get(name), name) for name in ("CUDA_HOME", "CUDA_PATH")]
    candidates = [(root, f"{name} {root}") for root, name in given if root]
    # The last are the compiler of the PyPI packages nvidia-cuda-nvcc, -crt, -nvvm and -cccl.
    places = [("/usr/local/cuda", ""), *((f"{folder}/nvidia/cu{major}", "") for folder in sys.path if folder)]
    if found := shutil.which("nvcc"):
        places.insert(1, (str(Path(found).resolve().parents[1]), f" (of {found})"))
    candidates += [(root, root + of) for root, of in places if of or os.path.exists(f"{root}/bin/nvcc")]
    passed_over = {}
    for root, name in candidates:
        if root in passed_over:
            continue
        version, wrong = _toolkit(Path(root), major)
        if wrong is not None:
            passed_over[root] = f"{name} {wrong}"
            continue
        return root, "; ".join([f"nvcc {version} in {root}", *passed_over.values()])
    return None, "; ".join([f"torch has CUDA {torch_cuda}, found no nvcc of it", *passed_over.values()])


def _toolkit(root: Path, major: str) -> tuple[str, str | None]:
    """Version of the compiler of a CUDA toolkit, and what is wrong with it."""
    nvcc = root / "bin" / "nvcc"
    try:
        if not nvcc.is_file():
            return "", "has no bin/nvcc" if root.is_dir() else "is no folder"
        if headers(root) is None:
            return "", "has no cuda_runtime.h in include or targets/*/include"
        run = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        return "", f"has an nvcc that does not run ({error.strerror})"
    match = re.search(r"release (\d+\.\d+)", run.stdout)
    if run.returncode or match is None:
        return "", f"has an nvcc that tells no version (exit code {run.returncode})"
    return match[1], None if match[1].split(".")[0] == major else f"has nvcc {match[1]}"


def headers(root: Path) -> Path | None:
    """Folder of a toolkit's headers; conda-forge's are below targets, beside the libraries of each platform."""
    folders = [root / "include", *sorted(root.glob(f"targets/{platform.machine()}-linux/include"))]
    folders += sorted(root.glob("targets/*/include"))
    return next((folder for folder in folders if (folder / "cuda_runtime.h").is_file()), None)


def compiler() -> str | None:
    """The C++ compiler that torch's builder takes, if there is one."""
    return shutil.which(os.environ.get("CXX", "c++").partition(" ")[0])


def extensions():
    """The libraries: `_C`, operators and kernels for CPUs; with CUDA `_C_cuda`, the kernels for GPUs. Or none."""
    if "dist_info" in sys.argv:  # name, version and dependencies alone: no need to load torch
        return {}
    wanted = os.environ.get("FASTCAM_EXTENSION", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"FASTCAM_EXTENSION must be 0 (build no library) or 1 (build, or fail), got {wanted!r}")
    missing = "FASTCAM_EXTENSION=0" if wanted == "0" else None if compiler() else "there is no C++ compiler (g++)"
    if missing and wanted == "1":
        raise SystemExit(f"FASTCAM_EXTENSION=1, but {missing}: install one, or name it by CXX")
    if missing:
        print(
            f"fastcam: NO library is built, since {missing}: it works without, but slower", file=sys.stderr, flush=True
        )
        return {}
    try:
        import torch
    except ImportError as error:
        raise SystemExit("fastcam is built against torch: install it first, or build with isolation") from error

    cuda_home, reason = find_cuda(torch.version.cuda)
    reason = re.sub(r'["\\$]', "_", reason)  # it becomes a string in C++
    if os.environ.get("FORCE_CUDA") == "1" and cuda_home is None:
        raise SystemExit(f"FORCE_CUDA=1, but CUDA cannot be built: {reason}")
    if cuda_home:
        os.environ["CUDA_HOME"] = cuda_home
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # reads CUDA_HOME

    print(f"fastcam: building for {'CPU and CUDA' if cuda_home else 'CPU only'} ({reason})", flush=True)

    def library(kind, name: str, *patterns: str):
        sources = [str(path.relative_to(ROOT)) for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        return kind(f"fastcam.{name}", sources, extra_compile_args=flags, py_limited_api=True)

    shared_flags = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
    flags = {
        "cxx": [
            "-O3",
            "-g0",  # Python asks for -g, which takes a fifth longer and makes the library several times as large
            "-ffp-contract=off",
            "-fno-math-errno",
            "-fvisibility=hidden",
            f"-fmacro-prefix-map={ROOT}/=",
            f'-DFASTCAM_BUILD="{"cuda" if cuda_home else "cpu"}: {reason}"',
            *shared_flags,
        ]
    }
    modules = [library(CppExtension, "_C", "csrc/*.cpp", "csrc/cpu/*.cpp")]
    if cuda_home:
        # -lineinfo changes no instruction; profilers and sanitizers name lines by it.
        flags["nvcc"] = ["-O3", "-fmad=false", "-lineinfo", "-DUSE_CUDA", "--expt-relaxed-constexpr", *shared_flags]
        if not torch.cuda.is_available() and "TORCH_CUDA_ARCH_LIST" not in os.environ:
            flags["nvcc"].append(PTX)
        cuda = library(CUDAExtension, "_C_cuda", "csrc/cuda/*.cu")
        if (folder := headers(Path(cuda_home))) != Path(cuda_home, "include"):
            cuda.include_dirs.append(str(folder))
            cuda.library_dirs.append(str(folder.parent / "lib"))
        # The static runtime: pip's CUDA lacks the link name of the shared one.
        cuda.libraries = [name for name in cuda.libraries if name != "cudart"] + ["cudart_static", "dl", "rt"]
        modules.append(cuda)
    for module in modules:  # neither is imported, so that neither needs Python
        module.libraries = [name for name in module.libraries if name != "torch_python"]
    return {"ext_modules": modules, "cmdclass": {"build_ext": BuildExtension}}


if __name__ == "__main__":
    from setuptools import setup

    built = extensions()
    setup(options={"bdist_wheel": {"py_limited_api": "cp311"}} if built else {}, **built)
