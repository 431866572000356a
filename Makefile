# `make demo` and `make test` do everything on a fresh machine with Python 3.11, git and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint install compile lock clean

demo: install  ## draw a helmet data set, train a detector on it, judge it
	$(RUN) -m pipelines demo

test: lint  ## lint, type check and all tests
	$(RUN) -m pytest --numprocesses 2 --dist loadfile

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

compile: install  ## write compiled/
	$(RUN) -m pipelines compile

install: $(VENV)/installed

# The lock is complete, and pip's resolver would refuse it: ultralytics asks for opencv-python, which needs X libraries
# that a fresh machine lacks; the headless build stands in for it. rknn-toolkit2 asks for an old numpy, torch, protobuf and
# setuptools, and works with these.
$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --no-deps --requirement requirements.txt
	@touch $@

lock:  ## write requirements.txt from requirements.in
	printf "opencv-python ; sys_platform == 'never'\nnumpy\ntorch\nprotobuf<7\nsetuptools<82\n" > .overrides.txt
	uv pip compile --universal --python-version 3.11 --override .overrides.txt --no-header --no-annotate \
		requirements.in --output-file requirements.txt
	rm .overrides.txt

clean:
	rm -rf $(VENV) jobs local_outputs
