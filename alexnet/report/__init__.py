"""The page of a run, and of several beside each other: report.html, self-contained. `pages` writes it from `parts`."""
