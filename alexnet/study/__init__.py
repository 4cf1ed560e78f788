"""The paper's experiments, run and judged: `run` makes what is missing, `report` says what it shows."""
