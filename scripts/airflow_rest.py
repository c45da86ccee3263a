"""A running Airflow's REST API, as a person at the web UI would use it: for tests and fault runs."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import psutil

from scripts.local_stack import Stack, read_json


@dataclass(frozen=True)
class Run:
    """One DAG run."""

    stack: Stack
    url: str
    token: str
    dag_id: str
    run_id: str

    @property
    def address(self) -> str:
        return f"{self.url}/api/v2/dags/{self.dag_id}/dagRuns/{quote(self.run_id)}"

    @property
    def state(self) -> str:
        return str(read_json(self.address, self.token)["state"])

    def wait(self, seconds: float) -> str:
        """The state in which the run ends.

        :raises TimeoutError: when it has not ended within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while (state := self.state) not in {"success", "failed"}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.run_id} is still {state} after {seconds:.0f} s")
            time.sleep(0.5)
        return state

    def task(self, task_id: str) -> dict[str, Any]:
        """The task's instance: state, try_number, id and more."""
        instance: dict[str, Any] = read_json(f"{self.address}/taskInstances/{task_id}", self.token)
        return instance

    def process(self, task_id: str) -> psutil.Process | None:
        """The process of a running task, which Airflow titles with the task instance's id."""
        instance = self.task(task_id)["id"]
        for process in self.stack.processes():
            with suppress(psutil.Error):
                if instance in " ".join(process.cmdline()):
                    return process
        return None

    def approve(self, task_id: str) -> None:
        details = {"chosen_options": ["Approve"], "params_input": {}}
        read_json(
            f"{self.address}/taskInstances/{task_id}/-1/hitlDetails", self.token, details, method="PATCH"
        )


def trigger(stack: Stack, dag_id: str, conf: dict[str, Any]) -> Run:
    """Start a run.

    :raises urllib.error.HTTPError: 400 when a parameter is out of its bounds.
    """
    url = stack.ui()
    assert url, "Airflow does not run"
    token = stack.token(url)
    body = {"logical_date": None, "conf": conf}
    run_id = read_json(f"{url}/api/v2/dags/{dag_id}/dagRuns", token, body)["dag_run_id"]
    return Run(stack, url, token, dag_id, str(run_id))
