# make book: the HTML book.  make test: every test.  Both set up .venv by themselves.
PYTHON ?= python3
UV_VERSION := 0.13.8

# Two spinning OpenMP threads on a shared two-core machine are five times slower than one.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
# uv and the tests rely on byte code: without it `import torch` takes four times as long.
export PYTHONDONTWRITEBYTECODE :=
export UV_COMPILE_BYTECODE := 1

BIN := .venv/bin

.PHONY: help book test release lint mutants budget measured lock clean
help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv/.ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "This project needs Python 3.11, 3.12 or 3.13; set PYTHON=python3.12, say.")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# Sphinx reports a warning only for a page that it reads, and keeps what an extension, an option or the
# list of chapters made before it changed. So a build that failed, and one after such a change, starts afresh.
_build/.started: $(wildcard book/assets/*) $(wildcard book/_ext/*.py) _config.yml _toc.yml requirements.txt
	rm -rf _build
	mkdir _build
	touch $@

book: .venv/.ready _build/.started  ## build the HTML book into _build/html
	$(BIN)/jupyter-book build . -W -n --keep-going -q || { rm -f _build/.started; exit 1; }
	$(BIN)/python book/_ext/check_pages.py

test: .venv/.ready  ## every test
	$(BIN)/ruff check --quiet .
	$(BIN)/python -m pytest -n 2 --dist loadscope

release: .venv/.ready  ## book/chapters and notebooks from solutions (runs what changed)
	$(BIN)/autograder release
	$(BIN)/python benchmarks/page.py

lint: .venv/.ready  ## the contracts of a chapter that a program can check
	$(BIN)/autograder lint

mutants: .venv/.ready  ## how many small changes of the solutions the hidden tests notice
	$(BIN)/autograder mutants --store
	$(BIN)/python benchmarks/page.py

budget: book  ## what each chapter costs; fails where one leaves its budget
	$(BIN)/autograder budget; status=$$?; $(BIN)/python benchmarks/page.py && exit $$status

measured: .venv/.ready  ## the book's page “What was measured” from benchmarks/results
	$(BIN)/python benchmarks/page.py

lock: .venv/.ready  ## requirements.txt from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
		--all-extras pyproject.toml --output-file requirements.txt

clean:  ## remove what make made
	rm -rf .venv _build
