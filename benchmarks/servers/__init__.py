"""What several benchmarks start."""
