"""The SageMaker API: HTTP, validation, and what all resources have in common."""
