"""What the benchmarks share: cores, processes, windows, load, results."""
