"""What an endpoint serves, as documents: variants with their models' containers, and how Describe shows them."""

import time

from local_sagemaker.api.protocol import Document, invalid
from local_sagemaker.jobs.checks import check_instances


def retain(served: Document, old: Document, excluded: list[Document]) -> None:
    """Give what is to be served the counts, weights and data capture that the endpoint has now."""
    kept = {"DesiredInstanceCount": "InitialInstanceCount", "DesiredWeight": "InitialVariantWeight"}
    left_out = {item["VariantPropertyType"] for item in excluded}
    members = [member for kind, member in kept.items() if kind not in left_out]
    before = {variant["VariantName"]: variant for variant in old["Plan"]}
    for variant in served["Plan"]:
        if now := before.get(variant["VariantName"]):
            variant |= {member: now[member] for member in members}
    if "DataCaptureConfig" not in left_out:
        served["Capture"] = old.get("Capture")


def with_capacities(endpoint: Document, desired: list[Document]) -> list[Document]:
    """An endpoint's plan with other weights and instance counts. Raises ApiError."""
    plan = {variant["VariantName"]: dict(variant) for variant in endpoint["Plan"]}
    names = [change["VariantName"] for change in desired]
    if missing := [name for name in names if name not in plan]:
        raise invalid(
            f'The variant name(s) "{", ".join(missing)}" is/are not present within endpoint configuration '
            f'"{endpoint["EndpointConfigName"]}".'
        )
    if len(set(names)) < len(names):
        raise invalid("DesiredWeightsAndCapacities names a variant twice")
    for change in desired:
        if "ServerlessUpdateConfig" in change:
            raise invalid(
                "local_sagemaker does not do serverless inference; leave out ServerlessUpdateConfig"
            )
        variant = plan[change["VariantName"]]
        if (count := change.get("DesiredInstanceCount")) is not None:
            if not count and not endpoint.get("AsyncInferenceConfig"):
                raise invalid(
                    f"The variant {change['VariantName']} needs an instance: it is not asynchronous"
                )
            check_instances(variant.get("InstanceType", "local"), count, "endpoint")
            variant["InitialInstanceCount"] = count
        variant["InitialVariantWeight"] = change.get("DesiredWeight", variant["InitialVariantWeight"])
    return list(plan.values())


def summaries(plan: list[Document], status: str | None = None, message: str | None = None) -> list[Document]:
    """ProductionVariantSummary, or PendingProductionVariantSummary with a status."""
    now = time.time()
    summaries = []
    for variant in plan:
        image, count = variant["Container"]["Image"], variant["InitialInstanceCount"]
        weight = variant["InitialVariantWeight"]
        summary: Document = {
            "VariantName": variant["VariantName"],
            "DeployedImages": [{"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": now}],
            "CurrentWeight": weight,
            "DesiredWeight": weight,
            "CurrentInstanceCount": count,
            "DesiredInstanceCount": count,
        }
        if status:
            summary["VariantStatus"] = [{"Status": status, "StatusMessage": message, "StartTime": now}]
        summaries.append(summary)
    return summaries


def described(served: Document) -> Document:
    """The members of DescribeEndpoint that follow from what is served."""
    return {
        "ProductionVariants": summaries(served["Plan"]),
        "ShadowProductionVariants": summaries(served.get("ShadowPlan") or []) or None,
        "DataCaptureConfig": _capture_summary(served.get("Capture")),
    }


def _capture_summary(config: Document | None) -> Document | None:
    if not config:
        return None
    enabled = config.get("EnableCapture", True)
    return {
        "EnableCapture": enabled,
        "CaptureStatus": "Started" if enabled else "Stopped",
        "CurrentSamplingPercentage": config["InitialSamplingPercentage"],
        "DestinationS3Uri": config["DestinationS3Uri"],
        "KmsKeyId": config.get("KmsKeyId", ""),
    }


def pending(served: Document, status: str, started: float, message: str | None = None) -> Document:
    """PendingDeploymentSummary."""
    summary: Document = {
        "EndpointConfigName": served["EndpointConfigName"],
        "StartTime": started,
        "ProductionVariants": summaries(served["Plan"], status, message),
    }
    if served["ShadowPlan"]:
        summary["ShadowProductionVariants"] = summaries(served["ShadowPlan"], status, message)
    return summary
