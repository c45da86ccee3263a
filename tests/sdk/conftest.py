"""AWS's own Python SDK, unmodified, against a local cloud: all that it is told stands in environment variables."""

from collections.abc import Iterator

import pytest

from tests.local_sagemaker.cloud_client import BUCKET, ROLE, Cloud

# The SDK asks AWS itself for the account's number to name its default bucket, so its configuration names one.
CONFIG = f"""
SchemaVersion: '1.0'
SageMaker:
  PythonSDK:
    Modules:
      Session: {{DefaultS3Bucket: {BUCKET}}}
      TelemetryOptOut: true
"""
# The SDK asks IAM whether the role may do what a training job does.
POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'


# Each of the SDK about itself; a line goes when the SDK does no longer warn.
WARNINGS = (
    # model_trainer.py imports the old name of one of its own modules:
    # https://github.com/aws/sagemaker-python-sdk/blob/master/sagemaker-train/src/sagemaker/train/model_trainer.py
    "ignore:sagemaker.train.configs has been moved:DeprecationWarning",
    # The same module leaves its temporary folders to the garbage collector.
    "ignore:Implicitly cleaning up <TemporaryDirectory:ResourceWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A running service, which every AWS client of this process speaks to."""
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "config.yaml").write_text(CONFIG)
    running = Cloud(folder / "state")
    variables = {
        "AWS_ENDPOINT_URL": running.address["aws"],
        "AWS_ENDPOINT_URL_SAGEMAKER": running.address["sagemaker"],
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": running.address["sagemaker"],
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(folder / "config.yaml"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        running.client("iam").put_role_policy(
            RoleName=ROLE.rpartition("/")[2], PolicyName="all", PolicyDocument=POLICY
        )
        yield running
    assert running.end() == 0
