"""Rolling out the programs of joint inference as a KFP component."""

from components import images


@images.train_component
def rollout(
    job_root: str,
    cloud_image: str,
    edge_image: str,
    store_secret: str,
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Start cloud server and edge workers, or bring those that run to new images and settings.

    On a cluster these are a Deployment with Service and HorizontalPodAutoscaler, or an InferenceService of KServe, and
    a DaemonSet; a rollout that fails is put back to what ran before. Without a cluster they are two processes. A new
    model needs no rollout: the programs follow the job.

    Args:
        job_root: Where the job is kept.
        cloud_image: Image of the cloud server, if the settings name none.
        edge_image: Image of the edge worker, if the settings name none.
        store_secret: Kubernetes secret with the credentials of the store.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("rollout", job_root):
        from components.core.parameters import DeploySettings, ServingSettings, read
        from components.rollout.manifests import Images
        from components.rollout.serve import serve

        serve(
            job_root,
            read(ServingSettings, settings),
            Images(cloud_image, edge_image),
            store_secret,
            read(DeploySettings, settings).rollout_fraction,
        )
