"""The folder of a run: its files, and boxes.parquet."""
