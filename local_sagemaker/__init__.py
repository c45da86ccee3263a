"""The SageMaker API on this machine: jobs are processes, images are Python environments. See `__main__.py`."""

VERSION = "0.1.0"
ACCOUNT = "000000000000"
