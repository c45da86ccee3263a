"""The SageMaker API on this machine: jobs are processes, images are Python environments. See `__main__.py`."""
