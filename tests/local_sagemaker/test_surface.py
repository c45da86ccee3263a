"""The whole surface at random: valid calls, calls at the wrong time, and calls that are wrong in themselves.

A state machine knows what it has made, and the service must agree: what is there is described, listed and found,
what is not is not; every answer is as botocore's model has it, every error is one that the operation declares.
SURFACE_EXAMPLES=500 runs it longer, and differently each time.
"""

import copy
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.local_sagemaker.cloud_client import (
    BUCKET,
    PLAIN,
    ROLE,
    SERVING,
    Cloud,
    Json,
    archive,
    channel,
    wait,
)
from tests.local_sagemaker.wire_client import Wire

LIMIT_S = 20.0
EXAMPLES = int(os.environ.get("SURFACE_EXAMPLES", "0"))
_numbers = itertools.count(1)

# boto3's calls of each operator of Airflow's Amazon provider, hooks and sensors included.
OPERATORS = {
    "SageMakerTrainingOperator": ["DescribeTrainingJob", "CreateTrainingJob", "StopTrainingJob"],
    "SageMakerTuningOperator": ["CreateHyperParameterTuningJob", "DescribeHyperParameterTuningJob"],
    "SageMakerModelOperator": ["CreateModel", "DescribeModel"],
    "SageMakerEndpointConfigOperator": ["CreateEndpointConfig", "DescribeEndpointConfig"],
    "SageMakerEndpointOperator": [
        "CreateModel", "CreateEndpointConfig", "CreateEndpoint", "UpdateEndpoint", "DescribeEndpoint",
        "DescribeEndpointConfig",
    ],
    "SageMakerTransformOperator": [
        "DescribeTransformJob", "DescribeModel", "CreateModel", "CreateTransformJob", "DescribeModelPackage",
    ],
    "SageMakerProcessingOperator": ["DescribeProcessingJob", "CreateProcessingJob", "StopProcessingJob"],
    "SageMakerRegisterModelVersionOperator": [
        "CreateModelPackageGroup", "CreateModelPackage", "DeleteModelPackageGroup",
    ],
    "SageMakerDeleteModelOperator": ["DeleteModel"],
    "SageMakerHook": ["ListTrainingJobs", "ListTransformJobs", "ListProcessingJobs"],
    "tuner of the SageMaker SDK": [
        "StopHyperParameterTuningJob", "ListTrainingJobsForHyperParameterTuningJob",
    ],
    "system tests": ["DeleteEndpoint", "DeleteEndpointConfig", "StopTransformJob"],
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of resource and its operations."""

    stem: str
    listed: str
    """The member of the List operation's answer."""
    stop: bool = False
    delete: bool = True
    found: bool = False

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(self.stem)

    @property
    def name(self) -> str:
        return f"{self.stem}Name"

    @property
    def status(self) -> str:
        return f"{self.stem}Status"

    @property
    def arn(self) -> str:
        return f"{self.stem}Arn"


TRAINING = Kind("TrainingJob", "TrainingJobSummaries", stop=True, found=True)
PROCESSING = Kind("ProcessingJob", "ProcessingJobSummaries", stop=True)
TRANSFORM = Kind("TransformJob", "TransformJobSummaries", stop=True, delete=False)
TUNING = Kind("HyperParameterTuningJob", "HyperParameterTuningJobSummaries", stop=True, found=True)
MODEL = Kind("Model", "Models", found=True)
CONFIG = Kind("EndpointConfig", "EndpointConfigs")
ENDPOINT = Kind("Endpoint", "Endpoints", found=True)
GROUP = Kind("ModelPackageGroup", "ModelPackageGroupSummaryList", found=True)
KINDS = (TRAINING, PROCESSING, TRANSFORM, TUNING, MODEL, CONFIG, ENDPOINT, GROUP)
JOBS = (TRAINING, PROCESSING, TRANSFORM, TUNING)
CHEAP = (TRAINING, PROCESSING, MODEL, CONFIG, GROUP)
IN_PROGRESS = {"InProgress", "Stopping"}
COMMANDS = (["/bin/sh", "-c", "exit 0"], ["/bin/sh", "-c", "exit 3"], ["/bin/sh", "-c", "sleep 1"])
TAG = {"Key": "purpose", "Value": "surface"}
DEPLOYMENT: Json = {
    "BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {
            "Type": "CANARY",
            "WaitIntervalInSeconds": 1,
            "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10},
        },
        "TerminationWaitInSeconds": 0,
        "MaximumExecutionTimeoutInSeconds": 600,
    }
}
VERBS = st.sampled_from(["Create", "Create", "Describe", "List", "Stop", "Delete"])
LETTERS = st.sampled_from("ab")


class Requests:
    """Valid requests with many members."""

    def __init__(self, cloud: Cloud) -> None:
        self.source = cloud.put("surface/sourcedir.tar.gz", archive({"train.py": "print('loss=1')"}))
        self.data = cloud.put("surface/data/a.txt", "a").removesuffix("a.txt")
        self.model_data = cloud.put("surface/model.tar.gz", archive({"answer.txt": "surface"}))

    def build(self, kind: Kind, name: str, command: list[str], model: str = "", config: str = "") -> Json:
        """A Create request."""
        members: dict[Kind, Callable[[], Json]] = {
            TRAINING: lambda: self._training(command),
            PROCESSING: lambda: self._processing(command),
            TRANSFORM: lambda: self._transform(model),
            TUNING: self._tuning,
            MODEL: self._model,
            CONFIG: lambda: self._config(model),
            ENDPOINT: lambda: {"EndpointConfigName": config, "DeploymentConfig": DEPLOYMENT},
            GROUP: lambda: {"ModelPackageGroupDescription": "of the surface"},
        }
        return copy.deepcopy({kind.name: name, **members[kind](), "Tags": [TAG]})

    def _training(self, command: list[str]) -> Json:
        return {
            "AlgorithmSpecification": {
                "TrainingImage": PLAIN,
                "TrainingInputMode": "File",
                "ContainerEntrypoint": command,
                "MetricDefinitions": [{"Name": "loss", "Regex": "loss=(.*)"}],
            },
            "RoleArn": ROLE,
            "InputDataConfig": [channel("train", self.data)],
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/surface/out"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            "HyperParameters": {"epochs": "1"},
            "Environment": {"A": "b"},
            "EnableManagedSpotTraining": False,
        }

    def _processing(self, command: list[str]) -> Json:
        output = {"S3Uri": f"s3://{BUCKET}/surface/processed", "LocalPath": "/opt/ml/processing/out"}
        source = {"S3Uri": self.data, "LocalPath": "/opt/ml/processing/in", "S3DataType": "S3Prefix"}
        return {
            "AppSpecification": {
                "ImageUri": PLAIN,
                "ContainerEntrypoint": command,
                "ContainerArguments": ["x"],
            },
            "RoleArn": ROLE,
            "ProcessingResources": {
                "ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1}
            },
            "ProcessingInputs": [{"InputName": "in", "S3Input": {**source, "S3InputMode": "File"}}],
            "ProcessingOutputConfig": {
                "Outputs": [{"OutputName": "out", "S3Output": {**output, "S3UploadMode": "EndOfJob"}}]
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            "Environment": {"A": "b"},
        }

    def _transform(self, model: str) -> Json:
        source = {"S3DataType": "S3Prefix", "S3Uri": self.data}
        return {
            "ModelName": model,
            "MaxConcurrentTransforms": 1,
            "TransformInput": {"DataSource": {"S3DataSource": source}, "ContentType": "text/plain"},
            "TransformOutput": {"S3OutputPath": f"s3://{BUCKET}/surface/transformed"},
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        }

    def _tuning(self) -> Json:
        return {
            "HyperParameterTuningJobConfig": {
                "Strategy": "Random",
                "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
                "ResourceLimits": {"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1},
                "ParameterRanges": {
                    "ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "1"}]
                },
                "RandomSeed": 1,
            },
            "TrainingJobDefinition": {
                "AlgorithmSpecification": {
                    "TrainingImage": PLAIN,
                    "TrainingInputMode": "File",
                    "MetricDefinitions": [{"Name": "loss", "Regex": "loss=(.*)"}],
                },
                "StaticHyperParameters": {
                    "sagemaker_program": "train.py",
                    "sagemaker_submit_directory": self.source,
                },
                "RoleArn": ROLE,
                "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/surface/tuned"},
                "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
                "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            },
        }

    def _model(self) -> Json:
        container = {"Image": SERVING, "ModelDataUrl": self.model_data, "Environment": {"A": "b"}}
        return {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}

    def _config(self, model: str) -> Json:
        variant = {
            "VariantName": "v1",
            "ModelName": model,
            "InitialInstanceCount": 1,
            "InstanceType": "ml.m5.large",
            "InitialVariantWeight": 1.0,
        }
        capture = {
            "EnableCapture": True,
            "InitialSamplingPercentage": 50,
            "DestinationS3Uri": f"s3://{BUCKET}/surface/captured",
            "CaptureOptions": [{"CaptureMode": "Input"}],
        }
        return {"ProductionVariants": [variant], "DataCaptureConfig": capture}

    def package(self, group: str) -> Json:
        container = {"Image": SERVING, "ModelDataUrl": self.model_data}
        return {
            "ModelPackageGroupName": group,
            "InferenceSpecification": {
                "Containers": [container],
                "SupportedContentTypes": ["text/csv"],
                "SupportedResponseMIMETypes": ["text/csv"],
            },
            "ModelApprovalStatus": "PendingManualApproval",
            "CustomerMetadataProperties": {"a": "b"},
        }


# Requests that are wrong in themselves


def places(shape: Shape, value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Shape]]:
    """Every value inside a request, with its shape."""
    found = [(path, shape)] if path else []
    if isinstance(shape, StructureShape):
        for name, item in value.items():
            found += places(shape.members[name], item, (*path, name))
    elif isinstance(shape, ListShape):
        for number, item in enumerate(value):
            found += places(shape.member, item, (*path, number))
    elif isinstance(shape, MapShape):
        for key, item in value.items():
            found += places(shape.value, item, (*path, key))
    return found


WRONG: dict[str, list[Any]] = {
    "string": ["", "x" * 5000, "../../etc", "a\u0000b", "\u00fc", "no such value", "{}", "arn:aws:x:y:z"],
    "number": [0, -1, 2**31, 2**63, 10**300, 1e300, 0.5],
    "type": [True, 7, 1.5, "text", [], {}, [[]], [None], {"a": None}, "\ud800"],
}


@st.composite
def mutations(draw: Any, wire: Wire, operation: str, request: Json) -> tuple[Json, str]:
    """A request with one thing wrong, and the error that must follow, or "" when it depends."""
    changed = copy.deepcopy(request)
    shape = wire.model.operation_model(operation).input_shape
    path, at = draw(st.sampled_from(places(shape, request)))
    inner: Any = changed
    outer_shape = shape
    for step in path[:-1]:
        outer_shape = (
            outer_shape.members[step]
            if isinstance(outer_shape, StructureShape)
            else getattr(outer_shape, "member", None) or outer_shape.value
        )
        inner = inner[step]
    last = path[-1]
    scalar = at.type_name not in {"structure", "list", "map"}
    ways = ["drop", "null", "type", "extra"] + ["value"] * scalar * 2
    match draw(st.sampled_from(ways)):
        case "drop":
            del inner[last]
            required = isinstance(outer_shape, StructureShape) and last in outer_shape.required_members
            return changed, "ValidationException" if required else ""
        case "null":
            inner[last] = None
            required = not isinstance(outer_shape, StructureShape) or last in outer_shape.required_members
            return changed, "ValidationException" if required else ""
        case "type":
            wrong = draw(st.sampled_from(WRONG["type"]))
            inner[last] = wrong
            clear = at.type_name == "string" and not isinstance(wrong, str)
            return changed, "SerializationException" if clear else ""
        case "extra":
            (inner if isinstance(inner, dict) else changed)["NoSuchMember"] = {"a": [1]}
            return changed, ""
        case _:
            values = WRONG["string" if at.type_name == "string" else "number"]
            inner[last] = draw(st.sampled_from(values))
            enum = bool(getattr(at, "enum", None))
            return changed, "ValidationException" if enum else ""


class Surface(RuleBasedStateMachine):
    """One client, and what it has made."""

    cloud: ClassVar[Cloud]
    wire: ClassVar[Wire]
    requests: ClassVar[Requests]

    def __init__(self) -> None:
        super().__init__()
        self.number = next(_numbers)
        self.there: dict[Kind, dict[str, Json]] = {kind: {} for kind in KINDS}
        self.packages: dict[str, str] = {}
        """Model package ARN → its group."""
        self.policies: set[str] = set()
        self.stray_endpoints: list[str] = []

    def prefix(self, kind: Kind) -> str:
        # A tuning job's training jobs begin with its name.
        return f"{'tune' if kind is TUNING else 'surface'}{self.number}-"

    def name(self, kind: Kind, letter: str) -> str:
        # Servers are dear: an example has one endpoint, one transform and one tuning job.
        return f"{self.prefix(kind)}{'a' if kind in {ENDPOINT, TRANSFORM, TUNING} else letter}"

    def describe(self, kind: Kind, name: str) -> Json:
        return self.wire.ok(f"Describe{kind.stem}", {kind.name: name})

    # What is there

    @initialize(dear=st.sampled_from([(), (ENDPOINT,), (TRANSFORM,), (TUNING,), (ENDPOINT, TUNING)]))
    def make_some(self, dear: tuple[Kind, ...]) -> None:
        """Most calls are about something that is there."""
        for kind in (MODEL, GROUP, TRAINING, PROCESSING, CONFIG, *dear):
            self.create(kind, "a", COMMANDS[0], "a")

    @rule(kind=st.sampled_from([*CHEAP, *CHEAP, *CHEAP, *KINDS]), letter=LETTERS, command=st.sampled_from(COMMANDS),
          other=LETTERS)  # fmt: skip
    def create(self, kind: Kind, letter: str, command: list[str], other: str) -> None:
        name = self.name(kind, letter)
        model, config = self.name(MODEL, other), self.name(CONFIG, other)
        request = self.requests.build(kind, name, command, model, config)
        needs = {TRANSFORM: (MODEL, model), CONFIG: (MODEL, model), ENDPOINT: (CONFIG, config)}.get(kind)
        ready = needs is None or needs[1] in self.there[needs[0]]
        if kind is ENDPOINT and ready:
            ready = self.there[CONFIG][config]["model"] in self.there[MODEL]
        code, answer = self.wire.call(f"Create{kind.stem}", request)
        if not ready:
            assert code, request
        elif name in self.there[kind]:
            assert code == ("ResourceInUse" if kind in JOBS else "ValidationException"), answer
        else:
            assert not code, answer
            self.there[kind][name] = {"arn": answer[kind.arn], "tags": {"purpose": "surface"}, "model": model}

    @rule(kind=st.sampled_from(KINDS), letter=LETTERS)
    def describe_one(self, kind: Kind, letter: str) -> None:
        name = self.name(kind, letter)
        code, answer = self.wire.call(f"Describe{kind.stem}", {kind.name: name})
        if name in self.there[kind]:
            assert not code, answer
            assert (answer[kind.name], answer[kind.arn]) == (name, self.there[kind][name]["arn"])
        else:
            assert code == "ValidationException", answer

    @rule(kind=st.sampled_from(KINDS), page=st.integers(1, 3), descending=st.booleans())
    def list_all(self, kind: Kind, page: int, descending: bool) -> None:
        request: Json = {
            "NameContains": self.prefix(kind),
            "SortBy": "Name",
            "SortOrder": "Descending" if descending else "Ascending",
            "MaxResults": page,
        }
        names: list[str] = []
        while True:
            answer = self.wire.ok(f"List{kind.stem}s", request)
            assert len(answer[kind.listed]) <= page
            names += [item[kind.name] for item in answer[kind.listed]]
            if "NextToken" not in answer:
                break
            request["NextToken"] = answer["NextToken"]
        assert names == sorted(self.there[kind], reverse=descending)

    @rule(kind=st.sampled_from([kind for kind in KINDS if kind.found]))
    def search(self, kind: Kind) -> None:
        inside = "Model." if kind is MODEL else ""
        wanted = {"Name": f"{inside}{kind.name}", "Operator": "Contains", "Value": self.prefix(kind)}
        tagged = {"Name": "Tags.purpose", "Operator": "Equals", "Value": "surface"}
        request = {
            "Resource": kind.stem,
            "SearchExpression": {"Filters": [wanted, tagged]},
            "MaxResults": 100,
        }
        results = [record[kind.stem] for record in self.wire.ok("Search", request)["Results"]]
        found = {(result["Model"] if kind is MODEL else result)[kind.name] for result in results}
        expected = {
            name for name, known in self.there[kind].items() if known["tags"].get("purpose") == "surface"
        }
        assert found == expected

    @rule(kind=st.sampled_from(JOBS), letter=LETTERS)
    def stop(self, kind: Kind, letter: str) -> None:
        name = self.name(kind, letter)
        before = self.describe(kind, name)[kind.status] if name in self.there[kind] else None
        code, answer = self.wire.call(f"Stop{kind.stem}", {kind.name: name})
        if before is None or before not in IN_PROGRESS:
            assert code, answer
        else:
            # Between the two calls the job may have ended.
            assert code in {"", "ValidationException"}, answer
            after = self.describe(kind, name)[kind.status]
            assert after != "InProgress" if not code else after not in IN_PROGRESS, (code, after)

    @rule(kind=st.sampled_from([kind for kind in KINDS if kind.delete]), letter=LETTERS, wait=st.booleans())
    def delete(self, kind: Kind, letter: str, wait: bool) -> None:
        name = self.name(kind, letter)
        there = name in self.there[kind]
        if there and wait and kind in {ENDPOINT, *JOBS}:
            self.settled(kind, name)
        before = self.describe(kind, name).get(kind.status) if there else None
        code, answer = self.wire.call(f"Delete{kind.stem}", {kind.name: name})
        if not there:
            assert code in {"ResourceNotFound", "ValidationException"}, answer
        elif kind in JOBS:
            assert not code or before in IN_PROGRESS, answer
        elif kind is GROUP:
            assert code == ("ConflictException" if name in self.packages.values() else ""), answer
        elif kind is ENDPOINT:
            assert not code or before not in {"InService", "Failed"}, answer
        else:
            assert not code, answer
        if there and not code:
            del self.there[kind][name]
            if kind is GROUP:
                self.policies.discard(name)
            if kind is ENDPOINT:
                self.gone(name)
            assert self.wire.call(f"Describe{kind.stem}", {kind.name: name})[0] == "ValidationException"

    def gone(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while not self.wire.call("DescribeEndpoint", {"EndpointName": name})[0]:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @rule(
        kind=st.sampled_from(KINDS),
        letter=LETTERS,
        key=st.sampled_from(["purpose", "other"]),
        add=st.booleans(),
    )
    def tag(self, kind: Kind, letter: str, key: str, add: bool) -> None:
        known = self.there[kind].get(self.name(kind, letter))
        if known is None:
            identifier = "arn:aws:sagemaker:us-east-1:000000000000:model/missing"
            for operation, more in (
                ("AddTags", {"Tags": [TAG]}),
                ("ListTags", {}),
                ("DeleteTags", {"TagKeys": ["a"]}),
            ):
                assert (
                    self.wire.call(operation, {"ResourceArn": identifier, **more})[0] == "ValidationException"
                )
            return
        resource = {"ResourceArn": known["arn"]}
        if add:
            known["tags"][key] = "new"
            self.wire.ok("AddTags", {**resource, "Tags": [{"Key": key, "Value": "new"}]})
        else:
            known["tags"].pop(key, None)
            self.wire.ok("DeleteTags", {**resource, "TagKeys": [key]})
        listed = {tag["Key"]: tag["Value"] for tag in self.wire.ok("ListTags", resource)["Tags"]}
        assert listed == known["tags"]

    # Endpoints and jobs that change

    @rule(letter=LETTERS, wait=st.booleans())
    def update_endpoint(self, letter: str, wait: bool) -> None:
        name, config = self.name(ENDPOINT, letter), self.name(CONFIG, letter)
        before = self.settled(ENDPOINT, name) if wait else None
        request = {"EndpointName": name, "EndpointConfigName": config, "RetainDeploymentConfig": not wait}
        code, answer = self.wire.call("UpdateEndpoint", request)
        possible = name in self.there[ENDPOINT] and config in self.there[CONFIG]
        if not possible or self.there[CONFIG][config]["model"] not in self.there[MODEL]:
            assert code == "ValidationException", answer
        elif before and before["EndpointStatus"] == "InService":
            assert bool(code) == (before["EndpointConfigName"] == config), answer
        if not code:
            settled = self.settled(ENDPOINT, name)
            assert settled is not None
            assert settled["EndpointConfigName"] == config

    @rule(weight=st.sampled_from([0.0, 0.5, 2.0]), count=st.sampled_from([0, 1, 9]))
    def update_weights(self, weight: float, count: int) -> None:
        name = self.name(ENDPOINT, "a")
        before = self.settled(ENDPOINT, name) if name in self.there[ENDPOINT] else None
        desired = {"VariantName": "v1", "DesiredWeight": weight, "DesiredInstanceCount": count}
        code, answer = self.wire.call(
            "UpdateEndpointWeightsAndCapacities",
            {"EndpointName": name, "DesiredWeightsAndCapacities": [desired]},
        )
        if before is None or before["EndpointStatus"] != "InService" or count == 0:
            assert code == "ValidationException", answer
        else:
            assert code == ("ResourceLimitExceeded" if count == 9 else ""), answer
            settled = self.settled(ENDPOINT, name)
            assert settled is not None
            assert code or settled["ProductionVariants"][0]["CurrentWeight"] == weight

    def settled(self, kind: Kind, name: str) -> Json | None:
        """A description when nothing of it changes; None when there is none."""
        deadline = time.monotonic() + 60
        while True:
            code, answer = self.wire.call(f"Describe{kind.stem}", {kind.name: name})
            if code or answer[kind.status] in {"InService", "Failed", "Completed", "Stopped"}:
                return None if code else answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.02)

    @rule(letter=LETTERS, seconds=st.sampled_from([0, 60]))
    def update_training_job(self, letter: str, seconds: int) -> None:
        name = self.name(TRAINING, letter)
        config = {"KeepAlivePeriodInSeconds": seconds}
        code, answer = self.wire.call(
            "UpdateTrainingJob", {"TrainingJobName": name, "ResourceConfig": config}
        )
        assert name in self.there[TRAINING] or code in {"ResourceNotFound", "ValidationException"}, answer

    @rule(sort=st.sampled_from(["Name", "CreationTime", "Status", "FinalObjectiveMetricValue"]))
    def trials(self, sort: str) -> None:
        name = self.name(TUNING, "a")
        request = {"HyperParameterTuningJobName": name, "SortBy": sort}
        code, answer = self.wire.call("ListTrainingJobsForHyperParameterTuningJob", request)
        assert bool(code) != (name in self.there[TUNING]), answer
        assert all(
            trial["TrainingJobName"].startswith(name) for trial in answer.get("TrainingJobSummaries", [])
        )

    # The registry

    @rule(letter=LETTERS)
    def register(self, letter: str) -> None:
        group = self.name(GROUP, letter)
        code, answer = self.wire.call("CreateModelPackage", self.requests.package(group))
        assert bool(code) == (group not in self.there[GROUP]), answer
        if not code:
            self.packages[answer["ModelPackageArn"]] = group
            self.there[GROUP][group].setdefault("versions", [0]).append(1)
            version = self.wire.ok("DescribeModelPackage", {"ModelPackageName": answer["ModelPackageArn"]})
            assert version["ModelPackageVersion"] == sum(self.there[GROUP][group]["versions"])

    @rule(number=st.integers(0, 3), status=st.sampled_from(["Approved", "Rejected"]), delete=st.booleans())
    def change_package(self, number: int, status: str, delete: bool) -> None:
        if not self.packages:
            return
        # No precondition: what is there depends on the service's pace, and Hypothesis wants the rules not to.
        identifier = sorted(self.packages)[number % len(self.packages)]
        request = {"ModelPackageArn": identifier, "ModelApprovalStatus": status, "ApprovalDescription": "so"}
        self.wire.ok("UpdateModelPackage", request)
        described = self.wire.ok("DescribeModelPackage", {"ModelPackageName": identifier})
        assert described["ModelApprovalStatus"] == status
        if delete:
            self.wire.ok("DeleteModelPackage", {"ModelPackageName": identifier})
            del self.packages[identifier]
            assert self.wire.call("DescribeModelPackage", {"ModelPackageName": identifier})[0]
            assert self.wire.call("DeleteModelPackage", {"ModelPackageName": identifier})[0]

    @rule(letter=LETTERS)
    def packages_of_a_group(self, letter: str) -> None:
        group = self.name(GROUP, letter)
        request = {"ModelPackageGroupName": group, "MaxResults": 100}
        code, answer = self.wire.call("ListModelPackages", request)
        assert bool(code) == (group not in self.there[GROUP]), answer
        own = sorted(identifier for identifier, of in self.packages.items() if of == group)
        if not code:
            listed = [item["ModelPackageArn"] for item in answer["ModelPackageSummaryList"]]
            assert sorted(listed) == own
        if own:
            batch = self.wire.ok("BatchDescribeModelPackage", {"ModelPackageArnList": own[:100]})
            assert sorted(batch["ModelPackageSummaries"]) == own

    @rule(letter=LETTERS, change=st.sampled_from(["Put", "Delete", ""]))
    def policy(self, letter: str, change: str) -> None:
        group = self.name(GROUP, letter)
        members = {"ModelPackageGroupName": group}
        there, has = group in self.there[GROUP], group in self.policies
        if change == "Put":
            request = {**members, "ResourcePolicy": '{"Statement": []}'}
            code, answer = self.wire.call("PutModelPackageGroupPolicy", request)
            assert bool(code) != there, answer
            self.policies |= {group} if there else set()
        elif change == "Delete":
            code, answer = self.wire.call("DeleteModelPackageGroupPolicy", members)
            assert bool(code) != has, answer
            self.policies.discard(group)
        code, answer = self.wire.call("GetModelPackageGroupPolicy", members)
        assert bool(code) != (group in self.policies), answer

    # What is wrong in itself

    @rule(data=st.data(), kind=st.sampled_from(KINDS), verb=VERBS)
    def wrong(self, data: Any, kind: Kind, verb: str) -> None:
        """Names of another prefix, so that what happens to be valid does not change what is known."""
        name = f"wrong-{next(_numbers)}"
        if (verb == "Stop" and not kind.stop) or (verb == "Delete" and not kind.delete):
            verb = "Describe"
        model, config = (next(iter(self.there[of]), "missing") for of in (MODEL, CONFIG))
        request: Json = {kind.name: name}
        if verb == "Create":
            request = self.requests.build(kind, name, COMMANDS[0], model, config)
        elif verb == "List":
            request = {"NameContains": name, "SortBy": "Name", "MaxResults": 5, "CreationTimeAfter": 1.5}
        operation = f"{verb}{kind.stem}{'s' * (verb == 'List')}"
        for _ in range(8 if verb == "Create" else 2):
            self.send_wrong(data, operation, request)

    @rule(data=st.data(), operation=st.sampled_from([
        "Search", "AddTags", "ListTags", "DeleteTags", "UpdateEndpoint", "UpdateEndpointWeightsAndCapacities",
        "UpdateTrainingJob", "CreateModelPackage", "UpdateModelPackage", "ListModelPackages",
        "BatchDescribeModelPackage", "PutModelPackageGroupPolicy", "ListTrainingJobsForHyperParameterTuningJob",
    ]))  # fmt: skip
    def wrong_otherwise(self, data: Any, operation: str) -> None:
        identifier = "arn:aws:sagemaker:us-east-1:000000000000:model-package/missing/1"
        condition = {"Name": "TrainingJobName", "Operator": "Contains", "Value": "x"}
        nested = {
            "NestedPropertyName": "InputDataConfig",
            "Filters": [{"Name": "InputDataConfig.ChannelName", "Operator": "Equals", "Value": "train"}],
        }
        requests: dict[str, Json] = {
            "Search": {
                "Resource": "TrainingJob",
                "SearchExpression": {
                    "Filters": [condition],
                    "NestedFilters": [nested],
                    "SubExpressions": [{"Filters": [condition], "Operator": "Or"}],
                    "Operator": "And",
                },
                "SortBy": "CreationTime",
                "SortOrder": "Ascending",
                "MaxResults": 5,
            },
            "AddTags": {"ResourceArn": identifier, "Tags": [TAG]},
            "ListTags": {"ResourceArn": identifier, "MaxResults": 50},
            "DeleteTags": {"ResourceArn": identifier, "TagKeys": ["a"]},
            "UpdateEndpoint": {
                "EndpointName": "missing",
                "EndpointConfigName": "missing",
                "RetainAllVariantProperties": True,
                "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredWeight"}],
                "DeploymentConfig": {
                    **DEPLOYMENT,
                    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "missing"}]},
                },
            },
            "UpdateEndpointWeightsAndCapacities": {
                "EndpointName": "missing",
                "DesiredWeightsAndCapacities": [{"VariantName": "v1", "DesiredWeight": 1.0}],
            },
            "UpdateTrainingJob": {
                "TrainingJobName": "missing",
                "ResourceConfig": {"KeepAlivePeriodInSeconds": 60},
            },
            "CreateModelPackage": self.requests.package("missing"),
            "UpdateModelPackage": {"ModelPackageArn": identifier, "ModelApprovalStatus": "Approved"},
            "ListModelPackages": {"ModelPackageType": "Both", "MaxResults": 5},
            "BatchDescribeModelPackage": {"ModelPackageArnList": [identifier]},
            "PutModelPackageGroupPolicy": {
                "ModelPackageGroupName": "missing",
                "ResourcePolicy": json.dumps({"Statement": []}),
            },
            "ListTrainingJobsForHyperParameterTuningJob": {
                "HyperParameterTuningJobName": "missing",
                "SortBy": "Name",
                "MaxResults": 5,
            },
        }
        for _ in range(5):
            self.send_wrong(data, operation, requests[operation])

    def send_wrong(self, data: Any, operation: str, request: Json) -> None:
        changed, expected = data.draw(mutations(self.wire, operation, request))
        code, answer = self.wire.call(operation, changed)
        assert not expected or code in {expected, "SerializationException"}, (operation, changed, answer)
        if operation == "CreateEndpoint" and not code:
            self.stray_endpoints.append(changed["EndpointName"])

    def tour(self) -> None:
        """Every operation once with success, and once without."""
        self.make_some((ENDPOINT,))
        for kind in (TRANSFORM, TUNING):
            self.create(kind, "a", COMMANDS[0], "a")
            self.stop(kind, "a")
        for kind in KINDS:
            self.create(kind, "a", COMMANDS[0], "a")
        self.register("a")
        self.register("b")
        self.change_package(0, "Approved", delete=False)
        self.packages_of_a_group("a")
        self.policy("a", "Put")
        self.policy("a", "Delete")
        self.policy("a", "Delete")
        self.create(TRANSFORM, "a", COMMANDS[0], "a")
        for kind in (TRAINING, PROCESSING):
            self.create(kind, "b", COMMANDS[2], "a")
        self.update_training_job("b", 60)
        # At once: a second later they have ended.
        for kind in (TRAINING, PROCESSING):
            self.stop(kind, "b")
        for kind in KINDS:
            self.describe_one(kind, "a")
            self.list_all(kind, 1, descending=False)
            self.tag(kind, "a", "other", add=True)
            self.tag(kind, "a", "other", add=False)
            self.tag(kind, "b", "other", add=True)
        self.settled(ENDPOINT, self.name(ENDPOINT, "a"))
        self.create(MODEL, "b", COMMANDS[0], "b")
        self.create(CONFIG, "b", COMMANDS[0], "b")
        self.update_endpoint("b", wait=True)
        self.update_endpoint("b", wait=True)
        self.update_weights(2.0, 1)
        self.update_weights(2.0, 9)
        self.trials("Name")
        for kind in JOBS:
            self.stop(kind, "b")
            self.stop(kind, "b")
        self.change_package(0, "Approved", delete=True)
        for kind in (ENDPOINT, CONFIG, MODEL, GROUP, TRAINING, PROCESSING, TUNING):
            self.search(kind) if kind.found else None
            self.delete(kind, "a", wait=True)
            self.delete(kind, "a", wait=True)
        for kind in KINDS:
            wrong: Json = {"MaxResults": 0, "CrossAccountFilterOption": "Everybody", "NameContains": 7}
            assert self.wire.call(f"List{kind.stem}s", wrong)[0]
        package = "arn:aws:sagemaker:us-east-1:000000000000:model-package/missing/1"
        for operation, request in (
            ("Search", {"Resource": "Nothing"}),
            ("BatchDescribeModelPackage", {}),
            ("DescribeTransformJob", {"TransformJobName": "missing"}),
            ("UpdateTrainingJob", {"TrainingJobName": "missing"}),
            ("UpdateModelPackage", {"ModelPackageArn": package}),
            ("ListModelPackages", {"ModelPackageGroupName": "missing"}),
        ):
            assert self.wire.call(operation, request)[0] in {"ValidationException", "ResourceNotFound"}
        self.policy("a", "Put")
        self.trials("Name")

    def teardown(self) -> None:
        for name in [*self.there[ENDPOINT], *self.stray_endpoints]:
            if self.settled(ENDPOINT, name):
                self.wire.ok("DeleteEndpoint", {"EndpointName": name})
        for kind in JOBS:
            for name in self.there[kind]:
                self.wire.call(f"Stop{kind.stem}", {kind.name: name})


@pytest.fixture(scope="module")
def operations(cloud: Cloud) -> set[str]:
    """What the service does, from the model that it keeps."""
    (kept,) = (cloud.state / "model").glob("sagemaker-" + "?" * 16 + ".json")
    return set(json.loads(kept.read_text())["model"]["operations"])


@pytest.mark.parametrize("caller", OPERATORS)
def test_what_airflow_calls_is_there(operations: set[str], caller: str) -> None:
    assert set(OPERATORS[caller]) <= operations


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.stem)
def test_every_member_can_be_absent(cloud: Cloud, kind: Kind) -> None:
    """Most are optional in the model and needed by what carries the request out."""
    wire, requests = Wire(cloud.address["sagemaker"], LIMIT_S), Requests(cloud)
    model, config = f"absent-{kind.stem}", f"absent-{kind.stem}"
    wire.ok("CreateModel", requests.build(MODEL, model, COMMANDS[0]))
    wire.ok("CreateEndpointConfig", requests.build(CONFIG, config, COMMANDS[0], model))
    operation = f"Create{kind.stem}"
    shape = wire.model.operation_model(operation).input_shape
    made = []
    for path, _ in places(shape, requests.build(kind, "x", COMMANDS[0], model, config)):
        name = f"absent-{next(_numbers)}"
        request = requests.build(kind, name, COMMANDS[0], model, config)
        inner: Any = request
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]
        if not wire.call(operation, request)[0]:
            made.append(name)
    assert made, "a tag at least can be absent"
    if kind is ENDPOINT:
        for name in made:
            cloud.endpoint_end(name)
            wire.ok("DeleteEndpoint", {"EndpointName": name})
    elif kind in JOBS:
        for name in made:
            wait(lambda name=name: wire.ok(f"Describe{kind.stem}", {kind.name: name}), kind.status)  # type: ignore[misc]
    wire.client.close()


def test_the_surface(cloud: Cloud, operations: set[str]) -> None:
    Surface.cloud, Surface.wire, Surface.requests = (
        cloud,
        Wire(cloud.address["sagemaker"], LIMIT_S),
        Requests(cloud),
    )
    machine = Surface()
    machine.tour()
    machine.teardown()
    assert operations - {operation for operation, code in Surface.wire.answers if not code} == set()
    assert operations - {operation for operation, code in Surface.wire.answers if code} == set()
    run_state_machine_as_test(
        Surface,
        settings=settings(
            max_examples=EXAMPLES or 25,
            stateful_step_count=60,
            derandomize=not EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    wire = Surface.wire
    seconds, operation = wire.slowest
    print(f"{wire.answers.total()} calls, the slowest {operation} with {seconds:.2f} s")
    failures = [line for line in (cloud.state / "stderr").read_text().splitlines() if " ERROR " in line]
    assert not failures
    wire.client.close()
