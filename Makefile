# `make demo` and `make test` do everything on a fresh machine with Python 3.11, git and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
LABEL_STUDIO := .venv-label-studio

.PHONY: demo demo-labelling test test-docker lint install images compile lock image-locks clean

demo: install  ## draw a helmet data set, train a detector on it, judge it
	$(RUN) -m pipelines demo

demo-labelling: install $(LABEL_STUDIO)/installed  ## hard examples go to Label Studio and come back labelled
	$(RUN) -m pipelines demo-labelling --server $(LABEL_STUDIO)/bin/label-studio $(ARGS)

test: lint  ## lint, type check and all tests
	$(RUN) -m pytest --numprocesses 2 --dist loadfile --maxfail 200 --max-worker-restart 0

test-docker: install  ## build every image and run pipelines in them; needs a Docker engine
	tests/docker/run

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

# In an environment of its own: what it needs and what this suite needs exclude each other.
$(LABEL_STUDIO)/installed:
	$(PYTHON) -m venv $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/python -m pip install --disable-pip-version-check label-studio==1.23.2
	@touch $@

images:  ## build the images; images/build.sh says what can be set
	images/build.sh

LOCK := uv pip compile --universal --python-version 3.11 --override .overrides.txt --no-header --no-annotate
# torch and what it brings along are a layer of their own, the same in every image that has them. Left out is triton,
# which compiles code for GPUs while it runs: nothing here asks for that.
TORCH := ^(torch|torchvision|nvidia-[a-z0-9-]+|cuda-[a-z]+)==

lock: .overrides.txt  ## write requirements.txt from requirements.in, and those of the images
	$(LOCK) requirements.in --output-file requirements.txt
	$(MAKE) image-locks

# Of kfp, steps need the executor alone, and nothing of what kfp asks for.
image-locks: .overrides.txt  ## write images/*/requirements.txt, with the versions of requirements.txt
	grep -E '$(TORCH)' requirements.txt > images/torch/requirements.txt
	for image in trigger train convert edge cloud; do \
		$(LOCK) --quiet --constraint requirements.txt images/$$image/requirements.in \
			| grep -vE '$(TORCH)|^triton==' > images/$$image/requirements.txt || exit 1; done
	for image in trigger train convert; do grep '^kfp==' requirements.txt >> images/$$image/requirements.txt; done

.INTERMEDIATE: .overrides.txt
.overrides.txt:
	printf "opencv-python ; sys_platform == 'never'\nnumpy\ntorch\nprotobuf<7\nsetuptools<82\n" > $@

clean:
	rm -rf $(VENV) $(LABEL_STUDIO) jobs local_outputs
