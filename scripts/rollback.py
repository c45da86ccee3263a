"""Put back what served before, without Airflow running.

    make rollback PIPELINE=digits                     # on this checkout's local cloud
    python -m scripts.rollback digits --to NAME       # another configuration than the one before
    python -m scripts.rollback digits --aws

About 6 s on 2 cores, some of it the model's server. An update that is under way is ended; the command given twice
changes nothing more. With --aws boto3's own environment says which account and region. Exit status 0: the sentence that
is printed is what serves.
"""

import argparse
import os
import sys
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from scripts.local_stack import REPOSITORY, Stack, StackError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", help="name of a file in dags/pipelines/")
    parser.add_argument(
        "--to", help="name of the endpoint configuration; without it the one that served before"
    )
    parser.add_argument(
        "--aws", action="store_true", help="not the local cloud but what boto3's environment says"
    )
    parser.add_argument("--var", default=REPOSITORY / "var", type=Path, help="folder of the local cloud")
    arguments = parser.parse_args()
    stack = Stack(arguments.var.resolve())
    try:
        if arguments.aws:
            os.environ.setdefault("AIRFLOW_HOME", str(stack.airflow_home))
        else:
            os.environ |= stack.airflow_environment(stack.cloud())
        # Airflow reads its environment when it is imported.
        sys.path.insert(0, str(REPOSITORY / "plugins"))
        from evergreen import names, rollback

        conn_id = None if arguments.aws else "aws_default"
        print(rollback.roll_back(conn_id, names.endpoint(arguments.pipeline), arguments.to))
    except (StackError, BotoCoreError) as error:
        sys.exit(f"error: {error}")
    except ClientError as error:
        sys.exit(f"error: {error.response['Error']['Code']}: {error.response['Error']['Message']}")
    except RuntimeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
