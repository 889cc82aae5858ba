# Shortcuts for development; CONTRIBUTING.md explains them.
.PHONY: build test lint format bench wheel docs linkcheck

build:
	python setup.py build_ext --inplace

test:
	pytest

lint:
	ruff check .
	ruff format --check .
	mypy
	git ls-files 'csrc/*' 'tests/emulation/*.h' 'tests/emulation/*.cpp' 'tests/machine_code/*.h' 'tests/machine_code/*.cpp' | xargs clang-format --dry-run --Werror

format:
	ruff check --fix .
	ruff format .
	git ls-files 'csrc/*' 'tests/emulation/*.h' 'tests/emulation/*.cpp' 'tests/machine_code/*.h' 'tests/machine_code/*.cpp' | xargs clang-format -i

bench:
	python -m fastcam bench

# The documentation site, build/docs/index.html; warnings, links that lead nowhere among them, are errors.
docs:
	sphinx-build -n -W --keep-going -b html docs build/docs

linkcheck:
	sphinx-build -b linkcheck docs build/linkcheck

# A wheel for PyPI, of this machine's C library (Debian 12: glibc 2.34), without torch's own libraries, for the GPUs that
# PyPI's torch is for. Then, e.g.: python tests/wheel.py dist/*.whl 2.11.0 2.14.1 2.13.0+cpu
wheel:
	rm -rf build/wheel dist
	FASTCAM_EXTENSION=1 TORCH_CUDA_ARCH_LIST="8.0;8.6;9.0;10.0;12.0+PTX" \
	  pip wheel --no-deps --no-build-isolation --wheel-dir build/wheel .
	auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' --plat manylinux_2_34_$$(uname -m) \
	  --wheel-dir dist build/wheel/fastcam-*.whl
	twine check --strict dist/*
	unzip -q -o dist/fastcam-*.whl -d build/wheel/unpacked
	torch-abi-audit --check torch build/wheel/unpacked/fastcam/*.so
