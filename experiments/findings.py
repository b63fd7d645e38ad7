"""What the results say, in words; the figures beside them are written by the commands."""

INTRODUCTION = """# Results

The experiments of Li & Liang (2021), on bases that fit a small machine. This page is written by
`python experiments --output docs/results --page docs/results.md` from the cells that the commands below have run; every
figure is a mean over runs, with their standard deviation. Learning rates are chosen on validation data (`tune`), at as
many rates for each method, and test data are used once.
"""

FINDINGS: dict[tuple[str, str], str] = {}  # by experiment and base
