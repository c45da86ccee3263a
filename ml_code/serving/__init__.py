"""The SageMaker serving contract over HTTP."""
