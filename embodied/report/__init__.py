"""Learning curves, videos, the HTML report of a run and the evidence pages of methods."""
