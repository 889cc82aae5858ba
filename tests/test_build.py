"""Which CUDA toolkit the build takes, and why not: toolkits of files that only look like compilers."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

SETUP = Path(__file__).resolve().parents[1] / "setup.py"


@pytest.fixture
def setup(monkeypatch, tmp_path):
    """setup.py as a module, where nothing but what a test makes is installed."""
    spec = importlib.util.spec_from_file_location("fastcam_setup", SETUP)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(module)
    for name in ("CUDA_HOME", "CUDA_PATH", "FORCE_CUDA", "FASTCAM_EXTENSION", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "path", [])
    exists, found = module.os.path.exists, module.shutil.which
    monkeypatch.setattr(module.os.path, "exists", lambda path: str(path).startswith(str(tmp_path)) and exists(path))
    ours = lambda name: path if str(path := found(name)).startswith(str(tmp_path)) else None  # noqa: E731
    monkeypatch.setattr(module.shutil, "which", ours)
    return module


def toolkit(root: Path, release: str = "13.0", include: str | None = "include", script: str | None = None) -> Path:
    (root / "bin").mkdir(parents=True)
    nvcc = root / "bin" / "nvcc"
    nvcc.write_text(script or f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    nvcc.chmod(0o755)
    if include:
        (root / include).mkdir(parents=True)
        (root / include / "cuda_runtime.h").touch()
    return root


@pytest.mark.parametrize("include", ["include", "targets/x86_64-linux/include", "targets/sbsa-linux/include"])
@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_headers_are_found_where_conda_has_them(setup, tmp_path, monkeypatch, include, variable):
    root = toolkit(tmp_path / "conda", include=include)
    monkeypatch.setenv(variable, str(root))
    assert setup.find_cuda("13.0") == (str(root), f"nvcc 13.0 in {root}")
    assert setup.headers(root) == root / include


def test_the_headers_of_this_machine_go_before_those_for_others(setup, tmp_path, monkeypatch):
    root = toolkit(tmp_path, include="targets/aarch64-linux/include")
    (root / "targets/x86_64-linux/include").mkdir(parents=True)
    (root / "targets/x86_64-linux/include/cuda_runtime.h").touch()
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(setup.platform, "machine", lambda machine=machine: machine)
        assert setup.headers(root) == root / f"targets/{machine}-linux/include"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"release": "12.4"}, "has nvcc 12.4"),
        ({"include": None}, r"has no cuda_runtime.h in include or targets/\*/include"),
        ({"script": "#!/bin/sh\necho broken >&2; exit 127\n"}, r"has an nvcc that tells no version \(exit code 127\)"),
        ({"script": "#!/bin/sh\necho hello\n"}, r"has an nvcc that tells no version \(exit code 0\)"),
        ({"script": "#!/no/such/shell\n"}, r"has an nvcc that does not run \(No such file or directory\)"),
    ],
)
def test_what_is_passed_over_is_named_with_its_reason(setup, tmp_path, monkeypatch, options, reason):
    root = toolkit(tmp_path / "cuda", **options)
    monkeypatch.setenv("CUDA_HOME", str(root))
    found, said = setup.find_cuda("13.0")
    assert found is None
    assert re.search(rf"^torch has CUDA 13\.0, found no nvcc of it; CUDA_HOME {root} {reason}$", said)


def test_a_variable_that_leads_nowhere_is_named(setup, tmp_path, monkeypatch):
    good = toolkit(tmp_path / "good")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "gone"))
    assert setup.find_cuda("13.0")[0] is None
    assert f"CUDA_HOME {tmp_path}/gone is no folder" in setup.find_cuda("13.0")[1]
    (tmp_path / "gone").mkdir()
    assert f"CUDA_HOME {tmp_path}/gone has no bin/nvcc" in setup.find_cuda("13.0")[1]
    # Also where another toolkit is taken in its place.
    monkeypatch.setenv("PATH", f"{good}/bin:/usr/bin:/bin")
    assert setup.find_cuda("13.0") == (
        str(good),
        f"nvcc 13.0 in {good}; CUDA_HOME {tmp_path}/gone has no bin/nvcc",
    )


def test_usual_places_without_a_compiler_are_not_worth_a_word(setup):
    assert setup.find_cuda("13.0") == (None, "torch has CUDA 13.0, found no nvcc of it")
    assert setup.find_cuda(None) == (None, "this torch is a CPU build")


def test_pypis_compiler_of_this_environment(setup, tmp_path, monkeypatch):
    root = toolkit(tmp_path / "site-packages/nvidia/cu13")
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "site-packages")])
    assert setup.find_cuda("13.2")[0] == str(root)
    assert setup.find_cuda("12.8") == (None, "torch has CUDA 12.8, found no nvcc of it")


def test_a_wrapper_on_the_path_is_named(setup, tmp_path, monkeypatch):
    real = toolkit(tmp_path / "usr", script="#!/bin/sh\nexit 1\n")
    (tmp_path / "ccache").mkdir()
    (tmp_path / "ccache" / "nvcc").symlink_to(real / "bin" / "nvcc")
    monkeypatch.setenv("PATH", f"{tmp_path}/ccache:/usr/bin:/bin")
    said = setup.find_cuda("13.0")[1]
    assert f"{real} (of {tmp_path}/ccache/nvcc) has an nvcc that tells no version" in said


def test_without_a_compiler_nothing_is_built_and_that_is_said(setup, monkeypatch, capsys):
    assert setup.compiler() is None
    assert setup.extensions() == {}
    assert "NO library is built, since there is no C++ compiler" in capsys.readouterr().err
    monkeypatch.setenv("FASTCAM_EXTENSION", "1")
    with pytest.raises(SystemExit, match=r"FASTCAM_EXTENSION=1, but there is no C\+\+ compiler"):
        setup.extensions()


def test_no_library_where_none_is_wanted(setup, monkeypatch, capsys):
    monkeypatch.setattr(setup, "compiler", lambda: "/usr/bin/c++")
    monkeypatch.setenv("FASTCAM_EXTENSION", "0")
    assert setup.extensions() == {}
    assert "NO library is built, since FASTCAM_EXTENSION=0" in capsys.readouterr().err
    monkeypatch.setenv("FASTCAM_EXTENSION", "no")
    with pytest.raises(SystemExit, match=r"FASTCAM_EXTENSION must be 0 .* or 1 .*, got 'no'"):
        setup.extensions()


@pytest.mark.parametrize(
    ("gpu", "wanted", "ptx"), [(False, None, True), (True, None, False), (False, "9.0", False), (True, "9.0", False)]
)
def test_ptx_is_built_where_nothing_tells_the_gpu(setup, tmp_path, monkeypatch, gpu, wanted, ptx):
    root = toolkit(tmp_path / "cuda")
    monkeypatch.setenv("CUDA_HOME", str(root))
    monkeypatch.setattr(setup, "compiler", lambda: "/usr/bin/c++")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(root))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    if wanted:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    cpu, cuda = setup.extensions()["ext_modules"]
    assert (cpu.name, cuda.name) == ("fastcam._C", "fastcam._C_cuda")
    chosen = [flag for flag in cuda.extra_compile_args["nvcc"] if flag.startswith("-gencode")]
    assert chosen == (["-gencode=arch=compute_80,code=compute_80"] if ptx else [])  # torch's builder chooses else


def test_what_only_tells_of_the_package_does_not_load_torch(setup, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["setup.py", "dist_info"])
    monkeypatch.setitem(sys.modules, "torch", None)  # to import it is an error
    monkeypatch.setattr(setup, "compiler", lambda: "/usr/bin/c++")
    assert setup.extensions() == {}
    assert capsys.readouterr() == ("", "")
