"""Members of SageMaker's requests that come from `compute`: machines, keys, network, spot, warm pools."""

from typing import Any

from evergreen.compute_settings import Compute

Request = dict[str, Any]


def cluster(compute: Compute, instance_type: str, instances: int) -> Request:
    """ResourceConfig, or a processing job's ClusterConfig."""
    return {
        "InstanceType": instance_type,
        "InstanceCount": instances,
        "VolumeSizeInGB": compute.volume_size_gb,
        **volume_key(compute),
    }


def volume_key(compute: Compute) -> Request:
    """Member of whatever has volumes, but for an endpoint's configuration."""
    return _if("VolumeKmsKeyId", compute.volume_kms_key_id)


def endpoint_key(compute: Compute) -> Request:
    """Member of CreateEndpointConfig: the key of its instances' volumes."""
    return _if("KmsKeyId", compute.volume_kms_key_id)


def output_key(compute: Compute) -> Request:
    """`KmsKeyId` of whatever SageMaker writes to S3."""
    return _if("KmsKeyId", compute.output_kms_key_id)


def vpc(compute: Compute) -> Request:
    """`VpcConfig`, where there is one."""
    if compute.vpc_config is None:
        return {}
    return {
        "VpcConfig": {
            "SecurityGroupIds": compute.vpc_config.security_group_ids,
            "Subnets": compute.vpc_config.subnets,
        }
    }


def isolation(compute: Compute) -> Request:
    """Member of a model, and of the jobs that `network` is for."""
    return _if("EnableNetworkIsolation", compute.enable_network_isolation)


def network(compute: Compute, *, isolated: bool = True) -> Request:
    """Members of a training job, and of a processing job's NetworkConfig.

    :param isolated: False for a job that cannot do without a network, whatever the settings say.
    """
    return {
        **vpc(compute),
        **(isolation(compute) if isolated else {}),
        **_if("EnableInterContainerTrafficEncryption", compute.encrypt_inter_container_traffic),
    }


def training_time(compute: Compute) -> Request:
    """Of a trial and of the retraining: how long they may take, and whether on spot instances."""
    return {
        "StoppingCondition": {
            "MaxRuntimeInSeconds": compute.max_runtime_seconds,
            **_if("MaxWaitTimeInSeconds", compute.max_wait_seconds),
        },
        **_if("EnableManagedSpotTraining", compute.use_spot_instances),
    }


def warm_pool(compute: Compute) -> Request:
    """Member of a training job's ResourceConfig."""
    return _if("KeepAlivePeriodInSeconds", compute.keep_alive_period_seconds)


def _if(member: str, value: Any) -> Request:
    return {member: value} if value else {}
