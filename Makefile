# Two commands do everything on a fresh machine with Python 3.11, pip and make:
#   make demo   environment, the built-in pictures packed, a small net trained, evaluated and asked; about three minutes
#   make test   environment, lint, tests; under ten minutes on two cores
# make faults does the long round of tests/faults, and writes its figures into results/ and docs/reliability.md.
# make test-web shows the page to Chromium (apt-get install chromium); make test does so too where there is one
# make bench-gpu measures one GPU against stock PyTorch and its own limits, into results/gpu.jsonl; ten minutes

PYTHON ?= python3
BIN := .venv/bin
ALEXNET := $(BIN)/alexnet
DEMO := demo
# The demo's net: the `modern` preset on 64-pixel crops with smaller dense layers, so that two cores see enough pictures.
SMALL := --set net.crop_px=64 --set net.fc6.outputs=1024 --set net.fc7.outputs=1024

.PHONY: demo test test-web faults bench-gpu install clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-web: install
	$(BIN)/python -m pytest tests/web

faults: install
	FAULTS=full $(BIN)/python -m pytest tests/faults
	$(BIN)/python benchmarks/scoreboard.py

bench-gpu: install
	$(ALEXNET) bench gpu --out results/gpu.jsonl

demo: install
	rm -rf $(DEMO)
	mkdir $(DEMO)
	$(ALEXNET) pack shapes $(DEMO)/shapes.pack --size 72
	$(ALEXNET) train $(DEMO)/shapes.pack --run $(DEMO)/run --preset modern --epochs 18 $(SMALL)
	$(ALEXNET) evaluate $(DEMO)/run --views 1 --per-class
	$(ALEXNET) evaluate $(DEMO)/run --views 10
	$(BIN)/python -c "from PIL import Image; from alexnet.data import shapes; \
	  Image.fromarray(shapes.render(1, seed=2)).save('$(DEMO)/ring.png')"
	$(ALEXNET) predict $(DEMO)/run $(DEMO)/ring.png
	@echo
	@echo "The pictures are in $(DEMO)/shapes.pack, the run with its curves and model in $(DEMO)/run, the picture is $(DEMO)/ring.png."
	@echo "Your own pictures, one folder a class:  $(ALEXNET) train PICTURES --run runs/mine --epochs 30"

clean:
	rm -rf .venv $(DEMO) build *.egg-info
