# make pretrain | make test | make check       Everything happens in .venv; nothing outside the checkout is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/five
SHARDS ?= shards
export DS_ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 || echo cpu)

.PHONY: pretrain test check clean

pretrain: $(VENV)/.installed
	$(BIN)/mmpt samples $(SHARDS)
	$(BIN)/mmpt pretrain five --out $(RUN)
	$(BIN)/mmpt probe $(RUN) $(SHARDS)/text --label label --streams text
	$(BIN)/mmpt probe $(RUN) $(SHARDS)/images --label label --streams image
	$(BIN)/mmpt probe $(RUN) $(SHARDS)/speech --label label --streams speech
	$(BIN)/mmpt probe $(RUN) $(SHARDS)/ecg --label label --streams ecg --score macro_f1 --skip-unlabelled
	$(BIN)/mmpt probe $(RUN) $(SHARDS)/labs --label label --streams labs
	$(BIN)/mmpt report $(RUN)

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
