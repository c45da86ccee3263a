"""S3, IAM, CloudWatch and Logs beside the SageMaker API."""
