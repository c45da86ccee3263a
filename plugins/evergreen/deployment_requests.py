"""SageMaker requests of what a pipeline deploys: like `requests.py`, pure functions of the plan and earlier returns."""

from typing import Any

from evergreen import compute_requests
from evergreen.deployment_settings import CapacitySize
from evergreen.plan import Plan
from evergreen.requests import Request, lasting_tags, tags

VARIANT = "AllTraffic"
# On an endpoint configuration: which one served before it.
BEFORE_TAG = "evergreen:before"
IMAGE_TYPES = [f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff")]
LINES_TYPE = "application/jsonlines"
# SageMaker's, of an ApprovalDescription.
DESCRIPTION_LENGTH = 1024


def archive(training: dict[str, Any], assessment: dict[str, Any]) -> str:
    """The archive to deploy: the training job's, unless the assessment made another of it (a quantised network)."""
    return str(assessment.get("archive") or training["Training"]["ModelArtifacts"]["S3ModelArtifacts"])


def model(plan: Plan, model_data: str) -> Request:
    """CreateModel."""
    return {
        "ExecutionRoleArn": plan.role,
        "PrimaryContainer": container(plan, model_data),
        "Tags": tags(plan),
        **compute_requests.vpc(plan.pipeline.compute),
        **compute_requests.isolation(plan.pipeline.compute),
    }


def container(plan: Plan, model_data: str) -> dict[str, Any]:
    return {
        "Image": plan.inference_image,
        "ModelDataUrl": model_data,
        "Environment": {
            "SAGEMAKER_PROGRAM": "inference.py",
            # Where AWS's PyTorch inference image looks for the code in the model archive.
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
            **plan.pipeline.deployment.environment,
        },
    }


def endpoint_config(plan: Plan, model_name: str, champion: dict[str, Any] | None) -> Request:
    """CreateEndpointConfig. A tag remembers which configuration served before this one."""
    before = [{"Key": BEFORE_TAG, "Value": champion["endpoint_config"]}] if champion else []
    deployment = plan.pipeline.deployment
    request: Request = {
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "ModelName": model_name,
                "InitialInstanceCount": deployment.instance_count,
                "InstanceType": deployment.instance_type,
                "InitialVariantWeight": 1.0,
            }
        ],
        "Tags": [*tags(plan), *before],
        **compute_requests.endpoint_key(plan.pipeline.compute),
    }
    capture = deployment.data_capture
    if capture.initial_sampling_percentage:
        request["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": capture.initial_sampling_percentage,
            "DestinationS3Uri": plan.uri("data-capture"),
            "CaptureOptions": [{"CaptureMode": mode} for mode in capture.capture_modes],
            **compute_requests.output_key(plan.pipeline.compute),
        }
    return request


def create_endpoint(plan: Plan, endpoint_config_name: str) -> Request:
    """CreateEndpoint."""
    return {**_served(plan, endpoint_config_name), "Tags": lasting_tags(plan)}


def _served(plan: Plan, endpoint_config_name: str) -> Request:
    return {"EndpointName": plan.endpoint_name, "EndpointConfigName": endpoint_config_name}


def update_endpoint(plan: Plan, endpoint_config_name: str, alarm_names: list[str]) -> Request:
    """UpdateEndpoint, with the pipeline's policy and what rolls it back."""
    deployment = plan.pipeline.deployment
    limit = deployment.maximum_execution_timeout_in_seconds
    limits = {"MaximumExecutionTimeoutInSeconds": limit} if limit is not None else {}
    config: dict[str, Any]
    routing: dict[str, dict[str, Any]]
    if deployment.policy == "rolling":
        rollback = deployment.rollback_maximum_batch_size
        config = {
            "RollingUpdatePolicy": {
                "MaximumBatchSize": _size(deployment.maximum_batch_size),
                "WaitIntervalInSeconds": deployment.wait_interval_in_seconds,
                **({"RollbackMaximumBatchSize": _size(rollback)} if rollback else {}),
                **limits,
            }
        }
    else:
        routing = {
            "all_at_once": {},
            "canary": {"CanarySize": _size(deployment.canary_size)},
            "linear": {"LinearStepSize": _size(deployment.linear_step_size)},
        }
        config = {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": deployment.policy.upper(),
                    "WaitIntervalInSeconds": deployment.wait_interval_in_seconds,
                    **routing[deployment.policy],
                },
                "TerminationWaitInSeconds": deployment.termination_wait_in_seconds,
                **limits,
            }
        }
    if alarm_names:
        config["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in alarm_names]}
    return {**_served(plan, endpoint_config_name), "DeploymentConfig": config}


def _size(size: CapacitySize) -> dict[str, Any]:
    return {"Type": size.type, "Value": size.value}


def model_package_group(plan: Plan) -> Request:
    """CreateModelPackageGroup; its packages cannot have tags of their own."""
    return {"ModelPackageGroupName": plan.base_name, "Tags": lasting_tags(plan)}


def model_package(
    plan: Plan, model_data: str, assessment: dict[str, Any], explainability: str | None
) -> Request:
    """CreateModelPackage in the pipeline's group, which waits for an `approval`.

    :param explainability: URI of SageMaker Clarify's analysis.json, where there is one.
    """
    metrics = {"ModelQuality": {"Statistics": _json(f"{plan.report_uri}/report.json")}}
    if explainability:
        metrics["Explainability"] = {"Report": _json(explainability)}
    return {
        "ModelPackageGroupName": plan.base_name,
        "ModelPackageDescription": f"{plan.dag_id} {plan.run_id}"[:1024],
        "ModelApprovalStatus": "PendingManualApproval",
        "InferenceSpecification": {
            "Containers": [container(plan, model_data)],
            "SupportedContentTypes": IMAGE_TYPES,
            "SupportedResponseMIMETypes": ["application/json"],
            "SupportedRealtimeInferenceInstanceTypes": [plan.pipeline.deployment.instance_type],
            "SupportedTransformInstanceTypes": [plan.pipeline.compute.instance_type],
        },
        "ModelMetrics": metrics,
        "CustomerMetadataProperties": {
            "report": f"{plan.report_uri}/report.html",
            "accuracy": f"{assessment['accuracy']:.4f}",
            "version": assessment["model_version"],
        },
    }


def approval(arn: str, status: str, description: str) -> Request:
    """UpdateModelPackage."""
    return {
        "ModelPackageArn": arn,
        "ModelApprovalStatus": status,
        "ApprovalDescription": description[:DESCRIPTION_LENGTH],
    }


def _json(uri: str) -> dict[str, str]:
    return {"ContentType": "application/json", "S3Uri": uri}


def batch_predict(plan: Plan, model_name: str, source: dict[str, str]) -> Request:
    """CreateTransformJob.

    :param source: S3DataSource: a manifest, or a prefix.
    """
    settings = plan.pipeline.deployment.transform
    lines = settings.split_type == "Line"
    joins = lines and settings.join_source == "Input"
    request: Request = {
        "ModelName": model_name,
        "MaxConcurrentTransforms": settings.max_concurrent_transforms,
        "MaxPayloadInMB": settings.max_payload_in_mb,
        "BatchStrategy": settings.batch_strategy,
        "ModelClientConfig": {
            "InvocationsTimeoutInSeconds": settings.invocations_timeout_in_seconds,
            "InvocationsMaxRetries": settings.invocations_max_retries,
        },
        "TransformInput": {
            "DataSource": {"S3DataSource": source},
            "ContentType": LINES_TYPE if lines else "application/x-image",
            "SplitType": settings.split_type,
        },
        "TransformOutput": {
            "S3OutputPath": f"{plan.run_uri}/batch",
            "Accept": LINES_TYPE if lines else "application/json",
            "AssembleWith": settings.assemble_with or settings.split_type,
            **compute_requests.output_key(plan.pipeline.compute),
        },
        "TransformResources": {
            "InstanceType": settings.instance_type or plan.pipeline.compute.instance_type,
            "InstanceCount": settings.instance_count,
            **compute_requests.volume_key(plan.pipeline.compute),
        },
        "Tags": tags(plan),
    }
    if lines:
        request["DataProcessing"] = {
            "InputFilter": settings.input_filter,
            "OutputFilter": settings.output_filter if joins else "$",
            "JoinSource": settings.join_source,
        }
    return request
