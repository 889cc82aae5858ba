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

# A wheel for PyPI, of this machine's C library (Debian 12: glibc 2.34), without torch's own libraries.
wheel:
	rm -rf build/wheel dist
	FASTCAM_EXTENSION=1 pip wheel --no-deps --no-build-isolation --wheel-dir build/wheel .
	auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' --plat manylinux_2_34_x86_64 --wheel-dir dist build/wheel/fastcam-*.whl
	twine check --strict dist/*
