# make pretrain | make test | make check       Everything happens in .venv; nothing outside the checkout is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/five
SHARDS ?= shards
PROBES := $(addprefix probe-,text images speech ecg labs)
export DS_ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 || echo cpu)

.PHONY: pretrain test check clean $(PROBES)

probe-images: STREAM := image
probe-ecg: MORE := --score macro_f1 --skip-unlabelled

pretrain: $(VENV)/.installed
	$(BIN)/mmpt samples $(SHARDS)
	$(BIN)/mmpt pretrain five --out $(RUN)
	$(MAKE) --no-print-directory --output-sync --jobs 2 $(PROBES)
	$(BIN)/mmpt report $(RUN)

$(PROBES): probe-%:
	OMP_NUM_THREADS=1 $(BIN)/mmpt probe $(RUN) $(SHARDS)/$* --label label --streams $(or $(STREAM),$*) $(MORE)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/codespell

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmpt needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
