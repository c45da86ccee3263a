"""Training, processing and transform jobs."""
