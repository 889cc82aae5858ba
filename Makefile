# Shortcuts for development; CONTRIBUTING.md explains them.
.PHONY: build test lint format bench

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
