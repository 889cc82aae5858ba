"""Builds the extension: CPU sources always, CUDA sources when torch has CUDA and a compiler of its major version."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# Architectures of a build on a machine without a GPU; TORCH_CUDA_ARCH_LIST overrides them.
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"


def find_cuda(torch_cuda: str | None) -> tuple[str | None, str]:
    """Root of a CUDA toolkit of torch's major version or None, and the reason."""
    if os.environ.get("FORCE_CUDA") == "0":
        return None, "FORCE_CUDA=0"
    if torch_cuda is None:
        return None, "this torch is a CPU build"
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if found := shutil.which("nvcc"):
        candidates.append(str(Path(found).resolve().parents[1]))
    # The compiler of the PyPI packages nvidia-cuda-nvcc, -crt, -nvvm and -cccl.
    major = torch_cuda.split(".")[0]
    candidates += [f"{folder}/nvidia/cu{major}" for folder in sys.path if folder]
    seen = []
    for root in filter(None, candidates):
        nvcc = Path(root) / "bin" / "nvcc"
        if not nvcc.is_file() or not (Path(root) / "include" / "cuda_runtime.h").is_file():
            continue
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
        version = match[1] if (match := re.search(r"release (\d+\.\d+)", text)) else "unknown"
        if version.split(".")[0] == major:
            return root, f"nvcc {version} in {root}"
        seen.append(f"{version} in {root}")
    return None, f"torch has CUDA {torch_cuda}, found " + (f"nvcc {', '.join(seen)}" if seen else "no nvcc")


def extension():
    """The one extension module, with or without CUDA."""
    try:
        import torch
    except ImportError as error:
        raise SystemExit("fastcam is built against torch: install it first, or build with isolation") from error

    cuda_home, reason = find_cuda(torch.version.cuda)
    if os.environ.get("FORCE_CUDA") == "1" and cuda_home is None:
        raise SystemExit(f"FORCE_CUDA=1, but CUDA cannot be built: {reason}")
    if cuda_home:
        os.environ["CUDA_HOME"] = cuda_home
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # reads CUDA_HOME

    print(f"fastcam: building for {'CPU and CUDA' if cuda_home else 'CPU only'} ({reason})", flush=True)
    sources = sorted(ROOT.glob("csrc/*.cpp")) + sorted(ROOT.glob("csrc/cpu/*.cpp"))
    shared_flags = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
    flags = {
        "cxx": [
            "-O3",
            "-ffp-contract=off",
            "-fno-math-errno",
            "-fvisibility=hidden",
            f"-fmacro-prefix-map={ROOT}/=",
            f'-DFASTCAM_BUILD="{"cuda" if cuda_home else "cpu"}: {reason}"',
            *shared_flags,
        ]
    }
    if cuda_home:
        sources += sorted(ROOT.glob("csrc/cuda/*.cu"))
        flags["nvcc"] = ["-O3", "-fmad=false", "-DUSE_CUDA", "--expt-relaxed-constexpr", *shared_flags]
    module = (CUDAExtension if cuda_home else CppExtension)(
        "fastcam._C",
        [str(s.relative_to(ROOT)) for s in sources],
        extra_compile_args=flags,
        py_limited_api=True,
    )
    if cuda_home:  # the static runtime: pip's CUDA lacks the link name of the shared one
        module.libraries = [lib for lib in module.libraries if lib != "cudart"] + ["cudart_static", "dl", "rt"]
    return {"ext_modules": [module], "cmdclass": {"build_ext": BuildExtension}}


if __name__ == "__main__":
    from setuptools import setup

    setup(options={"bdist_wheel": {"py_limited_api": "cp311"}}, **extension())
