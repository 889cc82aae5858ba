"""Speed, measured: ratios against named alternatives in one run."""
