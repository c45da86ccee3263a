"""The local cloud and Airflow's web UI in the background.

    make up      # about 30 s on 2 cores, then http://127.0.0.1:8080; login and password are shown
    make down    # stops all of it

`make up` on a running stack says where it is. Ports that are taken are replaced by free ones.
"""

import json
import sys
import time
import urllib.error

from scripts.local_stack import REPOSITORY, Stack, StackError, free_port, make_digits, read_json, wait_for

UI_PORT = 8080


def up(stack: Stack) -> None:
    started = time.monotonic()
    running = stack.ui()
    if running is None:
        if stack.processes_of("airflow"):
            raise StackError("a part of Airflow runs and its web UI does not answer: make down, then make up")
        make_digits()
        print("starting the local cloud", flush=True)
        cloud = stack.cloud()
        environment = stack.airflow_environment(cloud, free_port(UI_PORT))
        print("starting Airflow: API server, scheduler, DAG processor, triggerer (about 30 s)", flush=True)
        stack.migrate(environment)
        stack.start_airflow(environment)
        running = environment["AIRFLOW__API__BASE_URL"]
        (stack.run / "ui.json").write_text(json.dumps({"url": running}))
        wait_for("Airflow becoming healthy", lambda: stack.ui() is not None and _healthy(running), 180)
        wait_for(
            "the DAG processor reading the DAGs", lambda: _has_dag(stack, running, "retrain_digits"), 120
        )
    login = stack.login()
    print(f"Airflow's web UI: {running}   login: {login[0]}   password: {login[1]}")
    print(f"Trigger a run:    {running}/dags/retrain_digits")
    print(f"The local cloud:  {stack.cloud().sagemaker}")
    print(
        f"Up after {time.monotonic() - started:.0f} s. Logs are in {stack.log}; stop all of it with make down."
    )


def down(stack: Stack) -> None:
    stopped = stack.down()
    left = stack.processes()
    if left:
        raise StackError(f"these processes would not end: {[process.pid for process in left]}")
    print(f"stopped {stopped} processes" if stopped else "nothing was running")


def _healthy(url: str) -> bool:
    try:
        health = read_json(f"{url}/api/v2/monitor/health")
    except (OSError, ValueError):
        return False
    return all(
        health.get(part, {}).get("status") == "healthy"
        for part in ("metadatabase", "scheduler", "dag_processor", "triggerer")
    )


def _has_dag(stack: Stack, url: str, dag_id: str) -> bool:
    try:
        return bool(read_json(f"{url}/api/v2/dags/{dag_id}", stack.token(url))["dag_id"])
    except urllib.error.HTTPError:
        return False


if __name__ == "__main__":
    try:
        {"up": up, "down": down}[sys.argv[1]](Stack(REPOSITORY / "var"))
    except StackError as error:
        sys.exit(f"error: {error}")
