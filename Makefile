# Evergreen's verbs. `make demo` and `make test` are all that a newcomer needs.
#
#   make demo     the whole loop on this machine, from data to endpoint (PIPELINE=digits)
#   make test     every check and test
#   make up/down  Airflow's web UI and the local cloud, in the background / stopped
#   make env      secrets and settings of docker-compose.yaml, once: .env
#   make cloud    the local cloud alone, in the foreground: STATE=DIR PORT=N AWS_PORT=M
#   make rollback put back what served before (PIPELINE=digits TO=ENDPOINT-CONFIG AWS=1)
#   make doctor   is your account ready? (PIPELINE=digits AWS=1); asks, makes nothing
#   make mwaa     pack what Amazon MWAA takes, and check it against its image (BUCKET=your-mwaa-bucket)
#   make report   the report of a finished training job: JOB=NAME (TEST=FOLDER|s3://… AWS=1)
#   make check    linters and types
#   make bench    one benchmark: NAME=dag-import (without NAME: the list)
#   make chaos    one fault run: NAME=airflow-kill (without NAME: the list)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-cloud test-ml test-demo test-airflow up down env cloud rollback doctor mwaa report check bench chaos

# With it set, Airflow compiles its 20,000 modules anew in every process.
unexport PYTHONDONTWRITEBYTECODE

VENV := var/venv
UV = $(shell command -v uv || echo $(VENV)/uv/bin/uv)
AIRFLOW := $(VENV)/airflow/bin/python
ML := $(VENV)/ml/bin/python
CLOUD := $(VENV)/cloud/bin/python
ENVIRONMENTS := $(VENV)/airflow/.installed $(VENV)/ml/.installed $(VENV)/cloud/.installed

help:
	@sed -n 's/^#   //p' Makefile

PIPELINE ?= digits
demo: $(ENVIRONMENTS)
	$(AIRFLOW) -m scripts.demo --pipeline $(PIPELINE)

up: $(ENVIRONMENTS)
	$(AIRFLOW) -m scripts.stack up

down:
	@if [ -x $(AIRFLOW) ]; then $(AIRFLOW) -m scripts.stack down; else echo "nothing is installed, so nothing runs"; fi

env:
	@python3 -m scripts.env_file

STATE ?= var/cloud
PORT ?= 7700
AWS_PORT ?= 7701
cloud: $(VENV)/cloud/.installed $(VENV)/ml/.installed
	@exec $(CLOUD) -m local_sagemaker --state $(STATE) --port $(PORT) --aws-port $(AWS_PORT)

rollback: $(ENVIRONMENTS)
	@$(AIRFLOW) -m scripts.rollback $(PIPELINE) $(if $(TO),--to $(TO)) $(if $(AWS),--aws)

doctor: $(ENVIRONMENTS)
	@$(AIRFLOW) -m scripts.doctor $(PIPELINE) $(if $(AWS),--aws) $(if $(BUCKET),--bucket $(BUCKET))

mwaa: $(VENV)/airflow/.installed
	@$(AIRFLOW) -m scripts.mwaa --uv $(UV) $(if $(BUCKET),--bucket $(BUCKET)) $(if $(PYTHON),--python $(PYTHON))

report: $(ENVIRONMENTS)
	@$(AIRFLOW) -m scripts.report $(JOB) $(if $(TEST),--test $(TEST)) $(if $(AWS),--aws)

check: $(ENVIRONMENTS)
	$(AIRFLOW) -m ruff check .
	$(AIRFLOW) -m ruff format --check .
	$(AIRFLOW) -m mypy --exclude '^benchmarks/ml/' plugins dags scripts benchmarks
	$(ML) -m mypy ml_code benchmarks/ml
	$(CLOUD) -m mypy local_sagemaker

# At once, because a run of the DAG mostly waits. What the two of them ask AWS for is compared with the policies then.
test: export RECORDING = var/recording.jsonl
test: check $(VENV)/toolkit/.installed
	@rm -f $(RECORDING)
	@$(MAKE) --no-print-directory --jobs 4 test-cloud test-ml test-demo test-airflow
	$(AIRFLOW) -m pytest tests/end_to_end/test_permissions.py

test-cloud test-ml test-demo test-airflow: $(ENVIRONMENTS)

test-cloud:
	$(CLOUD) -m pytest tests/local_sagemaker

# As jobs have it: threads that spin while they wait for one another cost more than the tests on shared processors.
test-ml: export OMP_WAIT_POLICY = PASSIVE
test-ml:
	$(ML) -m pytest tests/ml_code

test-demo:
	$(AIRFLOW) -m pytest tests/end_to_end/test_demo.py

test-airflow:
	$(AIRFLOW) -m pytest tests/end_to_end/test_airflow.py
	$(AIRFLOW) -m pytest tests/plugins tests/dags tests/scripts tests/docs
	$(AIRFLOW) -m pytest tests/sdk

bench: $(ENVIRONMENTS)
	@$(AIRFLOW) -m scripts.bench benchmarks $(NAME)

chaos: $(ENVIRONMENTS)
	@$(AIRFLOW) -m scripts.bench benchmarks/chaos $(NAME)

# The three environments: their pins cannot live together, and on AWS they are three machines.
# The locks are given as constraints, so that UV_TORCH_BACKEND=cpu may choose the small torch.
install = $(UV) venv -q --allow-existing --no-python-downloads --python '>=3.11.4,<3.14' $(@D) && \
	$(UV) pip install -q --python $(@D)/bin/python --overrides overrides.txt --constraints $(1) $(2) && touch $@

$(VENV)/airflow/.installed: requirements.lock requirements.txt requirements-dev.txt requirements-airflow-dev.txt overrides.txt | $(VENV)/uv
	@echo "installing Airflow's environment (about 30 s)"
	@$(call install,requirements.lock,--compile-bytecode -r requirements.txt -r requirements-dev.txt -r requirements-airflow-dev.txt)

$(VENV)/ml/.installed: ml_code/requirements.lock ml_code/requirements.txt ml_code/requirements-serving.txt ml_code/requirements-image.txt ml_code/requirements-no-deps.txt requirements-dev.txt overrides.txt | $(VENV)/uv
	@echo "installing the ML container's environment (about 60 s; UV_TORCH_BACKEND=cpu takes the small torch)"
	@$(call install,ml_code/requirements.lock,-r ml_code/requirements-image.txt -r ml_code/requirements.txt -r ml_code/requirements-serving.txt -r ml_code/requirements-no-deps.txt -r requirements-dev.txt)

$(VENV)/cloud/.installed: local_sagemaker/requirements.lock local_sagemaker/requirements.txt requirements-dev.txt overrides.txt | $(VENV)/uv
	@echo "installing the local cloud's environment (about 5 s)"
	@$(call install,local_sagemaker/requirements.lock,-r local_sagemaker/requirements.txt -r requirements-dev.txt)

# What test_toolkit.py holds local_sagemaker against.
$(VENV)/toolkit/.installed: tests/local_sagemaker/toolkit-requirements.txt | $(VENV)/uv
	@echo "installing the training toolkit's environment (about 5 s; it needs a C compiler)"
	@$(UV) venv -q --allow-existing --no-python-downloads --python '>=3.11.4,<3.14' $(@D)
	@$(UV) pip install -q --python $(@D)/bin/python --no-deps -r $< && touch $@

$(VENV)/uv:
	@mkdir -p $(VENV)
	@if command -v uv >/dev/null; then mkdir $@; else python3 -m venv $@ && $@/bin/pip install -q uv; fi
