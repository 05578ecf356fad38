# `make demo` and `make test` do all the set-up by themselves; they need Python 3.10 or later with pip, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lab docs clean

demo: $(READY)  ## distil the handwritten digits to one image per class
	$(BIN)/mtt-nb demo

lab: $(READY)  ## open the notebooks
	$(BIN)/jupyter lab nbs

test: $(READY)  ## everything that must hold: the library is in step with the notebooks, lint, the notebooks, the tests
	$(BIN)/python -m pytest tests/test_project.py
	$(BIN)/ruff check .
	$(MAKE) docs
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --ignore tests/test_project.py

docs: $(READY)  ## the notebooks as a site, in _docs/html
	$(BIN)/python docs/prepare.py _docs/source
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d _docs/doctrees _docs/source _docs/html

$(READY): setup.py settings.ini pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[dev,docs]"
	touch $(READY)

clean:
	rm -rf .venv _docs build dist *.egg-info
