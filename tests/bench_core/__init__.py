"""Micro-benchmarks of the pure core, for `scripts/bench --core`. Not tests: what they find depends on the machine."""
