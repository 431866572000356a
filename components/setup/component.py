"""Setup as a KFP component."""

from components import images


@images.train_component
def setup(
    data_url: str,
    job_root: str,
    node_selector: dict,
    step_cpu: str,
    step_memory: str,
    store_secret: str,
    tolerations: list,
    train_cpu: str,
    train_gpu_type: str,
    train_gpus: str,
    train_memory: str,
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Check every parameter of `helmet-detection` before any work starts.

    All errors are reported together: values out of range, data that cannot be read, a store that cannot be written.

    Args:
        data_url: See `ingest`.
        job_root: Where the job is kept.
        node_selector: Labels of the nodes that steps may run on.
        step_cpu: CPUs of each step that loads a model.
        step_memory: Memory of each step that loads a model.
        store_secret: Kubernetes secret with the credentials of the store.
        tolerations: Kubernetes tolerations of every step.
        train_cpu: CPUs of training.
        train_gpu_type: Resource name of the GPUs.
        train_gpus: Number of GPUs for training.
        train_memory: Memory of training.
        settings: Parameters by name.
    """
    values = dict(locals())
    from components.core.steps import step

    with step("setup", job_root):
        from components.core import plugins
        from components.core.estimators.base import check_conversion, check_place, check_training
        from components.core.parameters import (
            WORKFLOWS,
            CommonSettings,
            ConvertSettings,
            DataSettings,
            TrainerSettings,
            TrainSettings,
            read,
        )
        from components.core.runtimes.base import runtimes
        from components.ingest.classes import Classes
        from components.ingest.dataset import formats
        from components.setup.cluster import try_trainjob, warn_of_cluster
        from components.setup.setup import check_one_model, check_run

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
                lambda: check_one_model(job_root),
                lambda: check_place(train().estimator, read(TrainerSettings, settings)),
                lambda: check_conversion(train().estimator, read(ConvertSettings, settings).targets),
                lambda: try_trainjob(read(TrainerSettings, settings)),
                lambda: check_training(
                    train().estimator, train().base_model, train().estimator_options, train().epochs
                ),
            ],
        )
        warn_of_cluster(values)


@images.train_component
def setup_round(
    feed_url: str,
    job_root: str,
    node_selector: dict,
    step_cpu: str,
    step_memory: str,
    store_secret: str,
    tolerations: list,
    train_cpu: str,
    train_gpu_type: str,
    train_gpus: str,
    train_memory: str,
    settings: dict = {},  # noqa: B006
) -> None:
    """Check every parameter of a round before any work starts.

    Args:
        feed_url: See `collect`.
        job_root: Where the job is kept.
        node_selector: Labels of the nodes that steps may run on.
        step_cpu: CPUs of each step that loads a model.
        step_memory: Memory of each step that loads a model.
        store_secret: Kubernetes secret with the credentials of the store.
        tolerations: Kubernetes tolerations of every step.
        train_cpu: CPUs of training.
        train_gpu_type: Resource name of the GPUs.
        train_gpus: Number of GPUs for training.
        train_memory: Memory of training.
        settings: Parameters by name.
    """
    values = dict(locals())
    from components.core.steps import step

    with step("setup", job_root):
        from components.core import plugins
        from components.core.estimators.base import check_conversion, check_place, check_training
        from components.core.miners.base import make_miner
        from components.core.parameters import (
            WORKFLOWS,
            CommonSettings,
            ConvertSettings,
            DataSettings,
            MineSettings,
            RoundTrainSettings,
            TrainerSettings,
            read,
        )
        from components.core.runtimes.base import runtimes
        from components.ingest.classes import Classes
        from components.ingest.dataset import formats
        from components.setup.cluster import try_trainjob, warn_of_cluster
        from components.setup.setup import base_of_round, check_one_model, check_run

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
                lambda: check_one_model(job_root),
                lambda: check_place(train().estimator, read(TrainerSettings, settings)),
                lambda: check_conversion(train().estimator, read(ConvertSettings, settings).targets),
                lambda: try_trainjob(read(TrainerSettings, settings)),
                lambda: make_miner(mine().miner, mine().miner_parameters),
                lambda: check_training(
                    train().estimator,
                    base_of_round(job_root, train().base_model, train().initial_model),
                    train().estimator_options,
                    train().epochs,
                ),
            ],
        )
        warn_of_cluster(values)
