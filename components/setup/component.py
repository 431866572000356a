"""Setup as a KFP component."""

from components import images


@images.train_component
def setup(
    data_url: str,
    job_root: str,
    node_selector: dict,
    store_secret: str,
    tolerations: list,
    train_cpu: str,
    train_gpu_type: str,
    train_gpus: str,
    train_memory: str,
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> str:
    """Check every parameter of `helmet-detection` before any work starts, and make the cache volume if it is missing.

    All errors are reported together: values out of range, data that cannot be read, a store that cannot be written.

    Args:
        data_url: See `ingest`.
        job_root: Where the job is kept.
        node_selector: Labels of the nodes that training may run on.
        store_secret: Kubernetes secret with the credentials of the store.
        tolerations: Kubernetes tolerations of the training step.
        train_cpu: CPUs that training requests.
        train_gpu_type: Resource name of the GPUs.
        train_gpus: Number of GPUs for training.
        train_memory: Memory that training requests.
        settings: Parameters by name.

    Returns:
        Name of the claim of the cache volume.
    """
    values = dict(locals())
    from components.core.steps import step

    with step("setup"):
        from components.core import plugins
        from components.core.estimators.base import check_training
        from components.core.parameters import (
            WORKFLOWS,
            CacheSettings,
            CommonSettings,
            DataSettings,
            TrainSettings,
            read,
        )
        from components.core.runtimes.base import runtimes
        from components.ingest.classes import Classes
        from components.ingest.dataset import formats
        from components.setup.setup import check_run
        from components.setup.volume import ensure_volume

        def data() -> DataSettings:
            return read(DataSettings, settings)

        def train() -> TrainSettings:
            return read(TrainSettings, settings)

        check_run(
            values,
            WORKFLOWS["helmet-detection"],
            [
                lambda: plugins.load(read(CommonSettings, settings).plugins),
                lambda: runtimes.get(read(CommonSettings, settings).runtime),
                lambda: data().data_format == "auto" or formats.get(data().data_format),
                lambda: Classes(data().classes, data().ignore_classes),
                lambda: check_training(
                    train().estimator, train().base_model, train().estimator_options, train().epochs
                ),
            ],
        )
        cache = read(CacheSettings, settings)
        ensure_volume(cache.cache_pvc, cache.cache_size)
        return cache.cache_pvc


@images.train_component
def setup_round(
    feed_url: str,
    job_root: str,
    node_selector: dict,
    store_secret: str,
    tolerations: list,
    train_cpu: str,
    train_gpu_type: str,
    train_gpus: str,
    train_memory: str,
    settings: dict = {},  # noqa: B006
) -> str:
    """Check every parameter of a round before any work starts, and make the cache volume if it is missing.

    Args:
        feed_url: See `collect`.
        job_root: Where the job is kept.
        node_selector: Labels of the nodes that training may run on.
        store_secret: Kubernetes secret with the credentials of the store.
        tolerations: Kubernetes tolerations of the training step.
        train_cpu: CPUs that training requests.
        train_gpu_type: Resource name of the GPUs.
        train_gpus: Number of GPUs for training.
        train_memory: Memory that training requests.
        settings: Parameters by name.

    Returns:
        Name of the claim of the cache volume.
    """
    values = dict(locals())
    from components.core.steps import step

    with step("setup"):
        from components.core import plugins
        from components.core.estimators.base import check_training
        from components.core.miners.base import make_miner
        from components.core.parameters import (
            WORKFLOWS,
            CacheSettings,
            CommonSettings,
            DataSettings,
            MineSettings,
            RoundTrainSettings,
            read,
        )
        from components.core.runtimes.base import runtimes
        from components.ingest.classes import Classes
        from components.ingest.dataset import formats
        from components.setup.setup import base_of_round, check_run
        from components.setup.volume import ensure_volume

        def data() -> DataSettings:
            return read(DataSettings, settings)

        def train() -> RoundTrainSettings:
            return read(RoundTrainSettings, settings)

        def mine() -> MineSettings:
            return read(MineSettings, settings)

        check_run(
            values,
            WORKFLOWS["incremental-learning"],  # the settings of a round include those of the poll that started it
            [
                lambda: plugins.load(read(CommonSettings, settings).plugins),
                lambda: runtimes.get(read(CommonSettings, settings).runtime),
                lambda: data().data_format == "auto" or formats.get(data().data_format),
                lambda: Classes(data().classes, data().ignore_classes),
                lambda: make_miner(mine().miner, mine().miner_parameters),
                lambda: check_training(
                    train().estimator,
                    base_of_round(job_root, train().base_model, train().initial_model),
                    train().estimator_options,
                    train().epochs,
                ),
            ],
        )
        cache = read(CacheSettings, settings)
        ensure_volume(cache.cache_pvc, cache.cache_size)
        return cache.cache_pvc
