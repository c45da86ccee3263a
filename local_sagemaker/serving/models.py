"""Models and endpoint configurations: documents that endpoints and transform jobs carry out."""

from local_sagemaker.api.protocol import Document, invalid
from local_sagemaker.api.resources import Resources
from local_sagemaker.api.unsupported import refuse
from local_sagemaker.cloud import Cloud
from local_sagemaker.jobs.checks import check_bucket, check_instances, check_model_data
from local_sagemaker.jobs.roles import check_role
from local_sagemaker.serving.registry import Registry

MODEL_UNSUPPORTED = {
    "Containers[1]": "inference pipelines",
    "InferenceExecutionConfig": "inference pipelines",
    "EnableNetworkIsolation": "network isolation",
    "Container.Mode=='MultiModel'": "multi-model containers",
    "Container.MultiModelConfig": "multi-model containers",
    "Container.AdditionalModelDataSources": "additional model data",
    "Container.InferenceSpecificationName": "additional inference specifications",
}
CONFIG_UNSUPPORTED = {
    "AsyncInferenceConfig.OutputConfig.NotificationConfig": "notifications",
    "ExplainerConfig": "online explanations",
    "EnableNetworkIsolation": "network isolation",
    "MetricsConfig.EnableEnhancedMetrics": "enhanced metrics",
    "MetricsConfig.EnableDetailedObservability": "detailed observability",
    **{
        expression.format(variants=variants): meaning
        for variants in ("ProductionVariants", "ShadowProductionVariants")
        for expression, meaning in (
            ("{variants}[].ServerlessConfig", "serverless inference"),
            ("{variants}[].InstancePools", "instance pools"),
            ("{variants}[].AcceleratorType", "accelerators"),
            ("{variants}[].CoreDumpConfig", "core dumps"),
            ("{variants}[?ManagedInstanceScaling.Status=='ENABLED']", "instance scaling"),
            ("{variants}[?!ModelName].VariantName", "inference components: a variant needs a ModelName"),
        )
    },
}


class Models(Resources):
    """CreateModel and its kin."""

    def __init__(self, cloud: Cloud, registry: Registry) -> None:
        super().__init__(cloud.store, "Model")
        self._cloud = cloud
        self._registry = registry

    def create_model(self, request: Document, region: str) -> Document:
        """CreateModel. Raises ApiError."""
        container = request.get("PrimaryContainer") or next(iter(request.get("Containers", [])), None)
        if not container:
            raise invalid("PrimaryContainer is required")
        if "ModelPackageName" in container:
            package = self._registry.package(container["ModelPackageName"])
            inner = package["InferenceSpecification"]["Containers"][0]
            container = {**inner, **container, "Environment": inner.get("Environment", {})}
        refuse({**request, "Container": container}, MODEL_UNSUPPORTED)
        if "Image" not in container:
            raise invalid("The container has no Image")
        if "ExecutionRoleArn" in request:
            check_role(self._cloud, request["ExecutionRoleArn"])
        source = container.get("ModelDataSource", {}).get("S3DataSource", {})
        if uri := container.get("ModelDataUrl", source.get("S3Uri")):
            check_model_data(self._cloud, uri, source.get("S3DataType", "S3Object"))
        document = {"EnableNetworkIsolation": False, **request, "Container": container}
        return {"ModelArn": self.create(request["ModelName"], region, document)}

    def container(self, name: str, region: str) -> Document:
        """What a model's servers run. Raises ApiError when its image cannot serve here.

        Not earlier: a model is a document, and those of images that are on AWS alone are as good as others.
        """
        container: Document = self.get(name, region)["Container"]
        image = self._cloud.images.find(container["Image"])
        if not image.serve and not image.docker:
            raise invalid(f"The image {container['Image']} has no `serve` command in images.yaml")
        return container


class EndpointConfigs(Resources):
    """CreateEndpointConfig and its kin."""

    def __init__(self, cloud: Cloud, models: Models) -> None:
        super().__init__(cloud.store, "EndpointConfig")
        self._cloud = cloud
        self._models = models

    def create_config(self, request: Document, region: str) -> Document:
        """CreateEndpointConfig. Raises ApiError."""
        refuse(request, CONFIG_UNSUPPORTED)
        production, shadows = request["ProductionVariants"], request.get("ShadowProductionVariants", [])
        if shadows and (len(production), len(shadows)) != (1, 1):
            raise invalid(
                "With ShadowProductionVariants there is one variant in it and one in ProductionVariants"
            )
        names = [variant["VariantName"] for variant in (*production, *shadows)]
        if len(set(names)) < len(names):
            raise invalid("Two variants have one name")
        for variant in (*production, *shadows):
            self._models.get(variant["ModelName"], region)
            if "InitialInstanceCount" not in variant:
                raise invalid(f"The variant {variant['VariantName']} has no InitialInstanceCount")
            instance_type = variant.get("InstanceType", "local")
            check_instances(instance_type, variant["InitialInstanceCount"], "endpoint")
            variant.setdefault("InitialVariantWeight", 1.0)
        output = request.get("AsyncInferenceConfig", {}).get("OutputConfig", {})
        if "AsyncInferenceConfig" in request and "S3OutputPath" not in output:
            raise invalid("AsyncInferenceConfig.OutputConfig.S3OutputPath is required")
        for member in output.keys() & {"S3OutputPath", "S3FailurePath"}:
            check_bucket(self._cloud, output[member])
        if capture := request.get("DataCaptureConfig"):
            if not capture["DestinationS3Uri"].startswith("s3://"):
                raise invalid("DataCaptureConfig.DestinationS3Uri has to be an s3:// address")
            check_bucket(self._cloud, capture["DestinationS3Uri"])
        return {"EndpointConfigArn": self.create(request["EndpointConfigName"], region, request)}
