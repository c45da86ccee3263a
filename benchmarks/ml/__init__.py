"""What benchmarks run in the ML environment."""
