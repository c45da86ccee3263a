"""The secrets and settings of docker-compose.yaml, written once.

    make env                                # .env
    python -m scripts.env_file /etc/evergreen.env

A file that is there is never changed: with other passwords the database could not be opened any more, with another
Fernet key no connection could be read.
"""

import base64
import json
import os
import secrets
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / ".env"
SECRETS = {
    "POSTGRES_PASSWORD": "of the database",
    "REDIS_PASSWORD": "of the queue",
    "FERNET_KEY": "encrypts connections and variables in the database; keep it with your backups",
    "API_SECRET_KEY": "signs web sessions and requests for task logs",
    "JWT_SECRET": "signs the tokens of tasks and of the REST API",
    "WEB_UI_PASSWORD": "of the web UI's first user, admin",
}

EXTRA = {"region_name": "eu-central-1", "service_config": {"s3": {"bucket_name": "BUCKET"}}}
SETTINGS = f"""\
# What the DAGs talk to: "local" is the local cloud, started beside Airflow. For AWS write "aws", and the connection
# aws_default. A machine with a role (instance profile) needs no keys; others add "login": KEY ID, "password": KEY.
CLOUD=local
COMPOSE_PROFILES=${{CLOUD}}
#AIRFLOW_CONN_AWS_DEFAULT='{json.dumps({"conn_type": "aws", "extra": EXTRA})}'

# Where the web UI answers, on this machine only, and its address for people if a proxy is in front of it.
#AIRFLOW_PORT=8080
#AIRFLOW_URL=https://airflow.example.org
# Tasks that one worker runs at once. Those that wait for SageMaker wait in the triggerer and take none.
#WORKER_CONCURRENCY=4
# A folder of this machine with datasets, which pipelines name var/data/NAME. Readable, and for CLOUD=local writable,
# by user 50000.
#DATASETS=/data
# The local cloud: ports on this machine, memory, and an empty TORCH_BACKEND for the torch that is built for GPUs.
#LOCAL_SAGEMAKER_PORT=7700
#LOCAL_AWS_PORT=7701
#LOCAL_SAGEMAKER_MEMORY=10g
#TORCH_BACKEND=cpu
"""


def write(file: Path) -> None:
    """The file, for its owner alone.

    :raises FileExistsError: when it is there.
    """
    lines = ["# Secrets and settings of docker-compose.yaml. Keep it out of repositories and images.", ""]
    for name, what in SECRETS.items():
        lines += [f"# {name}: {what}", f"{name}={_secret(name)}"]
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write("\n".join([*lines, "", SETTINGS]))


def _secret(name: str) -> str:
    """256 bits, of characters that need no quotes in addresses: hexadecimal digits, but for the Fernet key's base64."""
    if name == "FERNET_KEY":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(32)


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    try:
        write(file)
    except FileExistsError:
        print(f"{file} is there and stays as it is")
    else:
        print(f"wrote {file}: secrets, readable by you alone, and settings with what they are for")
    print("next: docker compose up --build --detach --wait, then http://localhost:8080")
    print(f"login admin, password: grep WEB_UI_PASSWORD {file}")


if __name__ == "__main__":
    main()
