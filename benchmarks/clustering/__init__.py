"""The table of clustering methods; see `python -m benchmarks.clustering --help`."""
