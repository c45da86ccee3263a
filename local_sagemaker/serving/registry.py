"""The model registry: model package groups and the versions in them."""

import json
import time
from typing import Any

from local_sagemaker.api.protocol import ApiError, Document, invalid
from local_sagemaker.api.resources import Resources, arn, plain_name
from local_sagemaker.api.unsupported import refuse
from local_sagemaker.store import Store

UNSUPPORTED = {
    "ValidationSpecification": "validation of model packages",
    "SourceAlgorithmSpecification": "algorithm packages",
    "CertifyForMarketplace": "the marketplace",
    "ManagedConfiguration": "managed storage",
    "ManagedStorageType": "managed storage",
    "SecurityConfig": "encryption keys",
}


class Registry(Resources):
    """Model packages. A version's name in the store is `GROUP/NUMBER`, as in its ARN."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, "ModelPackage")
        self.groups = Resources(store, "ModelPackageGroup")

    def create_group(self, request: Document, region: str) -> Document:
        """CreateModelPackageGroup. Raises ApiError."""
        refuse(request, UNSUPPORTED)
        document = {**request, "ModelPackageGroupStatus": "Completed", "CreatedBy": {}, "Versions": 0}
        return {
            "ModelPackageGroupArn": self.groups.create(request["ModelPackageGroupName"], region, document)
        }

    def describe_group(self, request: Document, region: str) -> Document:
        return self._group(request, region)

    def delete_group(self, request: Document, region: str) -> Document:
        name = plain_name(request["ModelPackageGroupName"])
        if self._versions(name):
            raise ApiError(
                "ConflictException", f"Model Package Group {name} cannot be deleted: it has versions"
            )
        return self.groups.delete({"ModelPackageGroupName": name}, region)

    def put_policy(self, request: Document, region: str) -> Document:
        """PutModelPackageGroupPolicy: kept; nobody but this machine asks. Raises ApiError."""
        group = self._group(request, region)
        try:
            policy = json.loads(request["ResourcePolicy"])
        except (ValueError, RecursionError) as error:
            raise invalid(f"ResourcePolicy is not JSON: {error}") from error
        if not isinstance(policy, dict) or "Statement" not in policy:
            raise invalid("ResourcePolicy is not a policy document: it has no Statement")
        self.groups.set(group["ModelPackageGroupName"], ResourcePolicy=request["ResourcePolicy"])
        return {"ModelPackageGroupArn": group["ModelPackageGroupArn"]}

    def get_policy(self, request: Document, region: str) -> Document:
        """GetModelPackageGroupPolicy. Raises ApiError."""
        return {"ResourcePolicy": self._policy(request, region)}

    def delete_policy(self, request: Document, region: str) -> Document:
        """DeleteModelPackageGroupPolicy. Raises ApiError."""
        self._policy(request, region)
        self.groups.set(plain_name(request["ModelPackageGroupName"]), ResourcePolicy=None)
        return {}

    def _policy(self, request: Document, region: str) -> str:
        group = self._group(request, region)
        if not group.get("ResourcePolicy"):
            raise invalid(f"Cannot find resource policy for: {group['ModelPackageGroupArn']}")
        return str(group["ResourcePolicy"])

    def _group(self, request: Document, region: str) -> Document:
        return self.groups.get(plain_name(request["ModelPackageGroupName"]), region)

    def create_package(self, request: Document, region: str) -> Document:
        """CreateModelPackage: a new version of a group, or a package of its own name. Raises ApiError."""
        refuse(request, UNSUPPORTED)
        document: Document = {
            "ModelApprovalStatus": "PendingManualApproval" if "ModelPackageGroupName" in request else None,
            **{key: value for key, value in request.items() if key != "ClientToken"},
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
        }
        if "ModelPackageGroupName" in request and "ModelPackageName" in request:
            raise invalid(
                "Both ModelPackageName and ModelPackageGroupName are provided in the input. Cannot determine which "
                "one to use."
            )
        if "ModelPackageGroupName" not in request and "ModelPackageName" not in request:
            raise invalid("Missing ARN.")
        if "ModelPackageName" in request:
            name = request["ModelPackageName"]
            if self.store.get(self.kind, name):
                raise invalid(f"Model package already exists: {arn(self.kind, name, region)}")
        else:
            group = plain_name(request["ModelPackageGroupName"])
            self.groups.get(group, region)
            with self.store.change("ModelPackageGroup", group) as counted:
                counted["Versions"] += 1
                version = counted["Versions"]
            name = f"{group}/{version}"
            document |= {
                "ModelPackageGroupName": group,
                "ModelPackageVersion": version,
                "ModelPackageName": name,
            }
        return {"ModelPackageArn": self.create(name, region, document)}

    def package(self, name_or_arn: str) -> Document:
        """A package by name or ARN. Raises ApiError."""
        kind_and_name = self.store.find(name_or_arn)
        name = kind_and_name[1] if kind_and_name and kind_and_name[0] == self.kind else name_or_arn
        document = self.store.get(self.kind, name)
        if document is None:
            raise invalid(f"ModelPackage {name_or_arn} does not exist.")
        return document

    def describe(self, request: Document, region: str) -> Document:
        return self.package(request["ModelPackageName"])

    def describe_batch(self, request: Document, region: str) -> Document:
        """BatchDescribeModelPackage: what is there, and an error for each that is not."""
        answer: Document = {"ModelPackageSummaries": {}, "BatchDescribeModelPackageErrorMap": {}}
        for identifier in request["ModelPackageArnList"]:
            try:
                answer["ModelPackageSummaries"][identifier] = self.package(identifier)
            except ApiError as error:
                failed = {"ErrorCode": error.code, "ErrorResponse": error.message}
                answer["BatchDescribeModelPackageErrorMap"][identifier] = failed
        return answer

    def delete(self, request: Document, region: str) -> Document:
        return super().delete(
            {"ModelPackageName": self.package(request["ModelPackageName"])["ModelPackageName"]}, region
        )

    def update(self, request: Document, region: str) -> Document:
        """UpdateModelPackage. Raises ApiError."""
        refuse(request, {"AdditionalInferenceSpecificationsToAdd": "additional inference specifications"})
        name = self.package(request["ModelPackageArn"])["ModelPackageName"]
        replaced = {
            "ModelApprovalStatus",
            "ApprovalDescription",
            "InferenceSpecification",
            "SourceUri",
            "ModelCard",
            "ModelLifeCycle",
            "ModelPackageRegistrationType",
        }
        with self.store.change(self.kind, name) as package:
            package |= {key: request[key] for key in replaced if key in request}
            properties: dict[str, Any] = package.get("CustomerMetadataProperties", {})
            properties |= request.get("CustomerMetadataProperties", {})
            for key in request.get("CustomerMetadataPropertiesToRemove", []):
                properties.pop(key, None)
            if properties:
                package["CustomerMetadataProperties"] = properties
            package["LastModifiedTime"] = time.time()
        return {"ModelPackageArn": request["ModelPackageArn"]}

    def list_packages(self, request: Document, region: str) -> Document:
        """ListModelPackages: the versions of a group, or the packages that are in none."""
        group = plain_name(request.get("ModelPackageGroupName", ""))
        if group:
            self.groups.get(group, region)
        approval = request.get("ModelApprovalStatus")
        both = request.get("ModelPackageType") == "Both"
        versioned = bool(group) or request.get("ModelPackageType") == "Versioned"
        packages = [
            package
            for package in (self._versions(group) if group else self.store.all(self.kind))
            if approval in {None, package.get("ModelApprovalStatus")}
            and (both or versioned == ("ModelPackageVersion" in package))
        ]
        return self.page(request, "ModelPackageSummaryList", packages)

    def _versions(self, group: str) -> list[Document]:
        return [
            package for package in self.store.all(self.kind) if package.get("ModelPackageGroupName") == group
        ]
