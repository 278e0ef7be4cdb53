"""Benchmarks: one file per question, each beside a reference measured in the same run."""
