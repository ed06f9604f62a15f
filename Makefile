# make demo: the whole method on one task, from a bare machine to a report.  make test: the tests.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
export MUJOCO_GL ?= egl
export OMP_NUM_THREADS ?= 1

.PHONY: demo test bench lint render clean

demo: $(VENV)/.train render
	@if [ -f runs/demo/checkpoints/LATEST ]; then $(RUN)/embodied train resume=runs/demo; \
	else $(RUN)/embodied train experiment=demo run=runs/demo; fi

test: $(VENV)/.test render
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/python -m pytest -n 2

bench: $(VENV)/.test
	$(RUN)/python -m benchmarks

lint: $(VENV)/.test
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

# Rendering needs Mesa's EGL. As root on Debian it is installed; elsewhere a line says what to do.
render:
	@ldconfig -p | grep -q libEGL.so.1 && ldconfig -p | grep -q libGLESv2.so.2 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq libegl1 libgles2 libgl1-mesa-dri >/dev/null; \
	else echo "no OpenGL: videos will be missing; install libegl1 libgles2 libgl1-mesa-dri"; fi

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: install python3-venv"; exit 1; }

$(VENV)/.train: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN)/pip install -q -c constraints.txt -e ".[all]"
	@touch $@

$(VENV)/.test: $(VENV)/.train
	$(RUN)/pip install -q -c constraints.txt -e ".[all,test]"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
