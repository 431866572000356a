"""Setup as a KFP component."""

from components import images


@images.train_component
def setup(
    data_url: str,
    job_root: str,
    data_path: str = "",
    data_format: str = "auto",
    classes: str = "",
    ignore_classes: str = "",
    max_bad_fraction: float = 0.1,
    max_files: int = 1000000,
    max_unpacked_gb: float = 100.0,
    max_compression_ratio: float = 200.0,
    train_ratio: float = 0.8,
    val_ratio: float = 0.1,
    split_by: str = "hash",
    group_pattern: str = "",
    seed: int = 0,
    estimator: str = "yolo",
    base_model: str = "yolo11n.yaml",
    epochs: int = 100,
    image_size: str = "640",
    batch: int = 16,
    patience: int = 50,
    device: str = "auto",
    workers: int = 2,
    estimator_options: dict = {},  # noqa: B006 - KFP takes the default as a value
    experiment_labels: str = "",
    targets: str = "",
    quantization: str = "int8",
    quantization_retries: str = "kl_divergence,mmse",
    calibration_size: int = 100,
    check_size: int = 300,
    max_map_loss: float = 0.02,
    max_f1_loss: float = 0.02,
    min_score_ratio: float = 0.9,
    conversion_timeout: float = 3600.0,
    confidence_threshold: float = 0.25,
    nms_threshold: float = 0.7,
    plugins: str = "",
    cache_pvc: str = "edge-learning-cache",
    cache_size: str = "20Gi",
    cpu_request: str = "2",
    memory_request: str = "8Gi",
    gpu_limit: str = "0",
    gpu_type: str = "nvidia.com/gpu",
    node_selector: dict = {},  # noqa: B006
    tolerations: list = [],  # noqa: B006
    store_secret: str = "edge-learning-store",
) -> str:
    """Check every parameter of a run before any work starts, and see to the cache volume.

    All that is wrong is told at once: values out of range, data that cannot be read, a store that cannot be written.
    The parameters are those of the steps that follow, and are described there.

    Args:
        data_url: See `ingest`.
        job_root: See `ingest`.
        data_path: See `ingest`.
        data_format: See `ingest`.
        classes: See `ingest`.
        ignore_classes: See `ingest`.
        max_bad_fraction: See `ingest`.
        max_files: See `ingest`.
        max_unpacked_gb: See `ingest`.
        max_compression_ratio: See `ingest`.
        train_ratio: See `prepare`.
        val_ratio: See `prepare`.
        split_by: See `prepare`.
        group_pattern: See `prepare`.
        seed: See `prepare` and `train`.
        estimator: See `train`.
        base_model: See `train`.
        epochs: See `train`.
        image_size: See `train`.
        batch: See `train`.
        patience: See `train`.
        device: See `train`.
        workers: See `train`.
        estimator_options: See `train`.
        experiment_labels: See `train`.
        targets: See `convert`.
        quantization: See `convert`.
        quantization_retries: See `convert`.
        calibration_size: See `convert`.
        check_size: See `convert`.
        max_map_loss: See `convert`.
        max_f1_loss: See `convert`.
        min_score_ratio: See `convert`.
        conversion_timeout: See `convert`.
        confidence_threshold: See `evaluate`.
        nms_threshold: See `evaluate`.
        plugins: See `ingest`, `train` and `evaluate`.
        cache_pvc: Name of the persistent volume claim for the cache; made on a cluster when it is missing.
        cache_size: Size of that claim, such as `20Gi`.
        cpu_request: CPUs that training asks for, such as `2` or `500m`.
        memory_request: Memory that training asks for, such as `8Gi`.
        gpu_limit: Number of GPUs for training.
        gpu_type: Resource name of the GPUs, such as `nvidia.com/gpu`.
        node_selector: Labels of the nodes that training may run on.
        tolerations: Kubernetes tolerations of the training step.
        store_secret: Kubernetes secret with the store's credentials.

    Returns:
        The claim's name.
    """
    parameters = dict(locals())
    from components.core.steps import step

    with step("setup"):
        from components.core import plugins as registry
        from components.core.estimators.base import check_training
        from components.ingest.classes import Classes
        from components.ingest.dataset import formats
        from components.setup.setup import check_run
        from components.setup.volume import ensure_volume

        check_run(
            parameters,
            ["store", "ingest", "split", "prepare", "train", "convert", "evaluate", "cluster"],
            [
                lambda: registry.load(plugins),
                lambda: data_format == "auto" or formats.get(data_format),
                lambda: Classes(classes, ignore_classes),
                lambda: check_training(estimator, base_model, estimator_options),
            ],
        )
        ensure_volume(cache_pvc, cache_size)
        return cache_pvc


@images.train_component
def setup_round(
    feed_url: str,
    job_root: str,
    data_path: str = "",
    data_format: str = "auto",
    classes: str = "",
    ignore_classes: str = "",
    max_bad_fraction: float = 0.1,
    max_files: int = 1000000,
    max_unpacked_gb: float = 100.0,
    max_compression_ratio: float = 200.0,
    force_train: bool = False,
    force_evaluate: bool = False,
    train_ratio: float = 0.8,
    val_ratio: float = 0.1,
    seed: int = 0,
    replay_ratio: float = 1.0,
    replay_limit: int = 5000,
    core_rounds: int = 1,
    recent_rounds: int = 3,
    estimator: str = "yolo",
    base_model: str = "champion",
    initial_model: str = "yolo11n.yaml",
    epochs: int = 30,
    image_size: str = "640",
    batch: int = 16,
    patience: int = 50,
    device: str = "auto",
    workers: int = 2,
    estimator_options: dict = {},  # noqa: B006
    experiment_labels: str = "",
    targets: str = "",
    quantization: str = "int8",
    quantization_retries: str = "kl_divergence,mmse",
    calibration_size: int = 100,
    check_size: int = 300,
    max_map_loss: float = 0.02,
    max_f1_loss: float = 0.02,
    min_score_ratio: float = 0.9,
    conversion_timeout: float = 3600.0,
    confidence_threshold: float = 0.25,
    nms_threshold: float = 0.7,
    gate_conditions: list = ["map50_delta >= 0"],  # noqa: B006
    max_class_loss: float = 0.05,
    max_loss: float = -1.0,
    min_samples: int = 20,
    require_significant: bool = False,
    deploy_window: dict = {},  # noqa: B006
    force_deploy: bool = False,
    workers_timeout: float = 0.0,
    fleet_fraction: float = 0.95,
    trial_fraction: float = 0.0,
    trial_frames: int = 100,
    trial_hours: float = 24.0,
    keep_versions: int = 10,
    label_budget: int = 50,
    random_share: float = 0.1,
    empty_share: float = 0.2,
    miner: str = "doubt",
    miner_parameters: dict = {},  # noqa: B006
    least_score: float = 0.05,
    pool_limit: int = 2000,
    prelabel_job: str = "",
    plugins: str = "",
    cache_pvc: str = "edge-learning-cache",
    cache_size: str = "20Gi",
    cpu_request: str = "2",
    memory_request: str = "8Gi",
    gpu_limit: str = "0",
    gpu_type: str = "nvidia.com/gpu",
    node_selector: dict = {},  # noqa: B006
    tolerations: list = [],  # noqa: B006
    store_secret: str = "edge-learning-store",
) -> str:
    """Check every parameter of a round before any work starts, and see to the cache volume.

    All that is wrong is told at once. The parameters are those of the steps that follow, and are described there.

    Args:
        feed_url: See `collect`.
        job_root: See `collect`.
        data_path: See `collect`.
        data_format: See `collect`.
        classes: See `collect`.
        ignore_classes: See `collect`.
        max_bad_fraction: See `collect`.
        max_files: See `collect`.
        max_unpacked_gb: See `collect`.
        max_compression_ratio: See `collect`.
        force_train: See `plan`.
        force_evaluate: See `plan` and `train`.
        train_ratio: See `plan`.
        val_ratio: See `plan`.
        seed: See `plan` and `train`.
        replay_ratio: See `plan`.
        replay_limit: See `plan`.
        core_rounds: See `plan`.
        recent_rounds: See `plan`.
        estimator: See `train`.
        base_model: See `train`.
        initial_model: See `train`.
        epochs: See `train`.
        image_size: See `train`.
        batch: See `train`.
        patience: See `train`.
        device: See `train`.
        workers: See `train`.
        estimator_options: See `train`.
        experiment_labels: See `train`.
        targets: See `convert`.
        quantization: See `convert`.
        quantization_retries: See `convert`.
        calibration_size: See `convert`.
        check_size: See `convert`.
        max_map_loss: See `convert`.
        max_f1_loss: See `convert`.
        min_score_ratio: See `convert`.
        conversion_timeout: See `convert`.
        confidence_threshold: See `judge`.
        nms_threshold: See `judge`.
        gate_conditions: See `judge`.
        max_class_loss: See `judge`.
        max_loss: See `judge`.
        min_samples: See `judge`.
        require_significant: See `judge`.
        deploy_window: See `judge`.
        force_deploy: See `judge`.
        workers_timeout: See `deploy`.
        fleet_fraction: See `deploy`.
        trial_fraction: See `deploy`.
        trial_frames: See `deploy`.
        trial_hours: See `deploy`.
        keep_versions: See `deploy`.
        label_budget: See `mine`.
        random_share: See `mine`.
        empty_share: See `mine`.
        miner: See `mine`.
        miner_parameters: See `mine`.
        least_score: See `mine`.
        pool_limit: See `mine`.
        prelabel_job: See `mine`.
        plugins: See `collect`, `train` and `mine`.
        cache_pvc: Name of the persistent volume claim for the cache; made on a cluster when it is missing.
        cache_size: Size of that claim, such as `20Gi`.
        cpu_request: CPUs that training asks for, such as `2` or `500m`.
        memory_request: Memory that training asks for, such as `8Gi`.
        gpu_limit: Number of GPUs for training.
        gpu_type: Resource name of the GPUs, such as `nvidia.com/gpu`.
        node_selector: Labels of the nodes that training may run on.
        tolerations: Kubernetes tolerations of the training step.
        store_secret: Kubernetes secret with the store's credentials.

    Returns:
        The claim's name.
    """
    parameters = dict(locals())
    from components.core.steps import step

    with step("setup"):
        from components.core import plugins as registry
        from components.core.estimators.base import check_training
        from components.core.miners.base import make_miner
        from components.ingest.classes import Classes
        from components.ingest.dataset import formats
        from components.setup.setup import base_of_round, check_run
        from components.setup.volume import ensure_volume

        check_run(
            parameters,
            ["store", "feed", "split", "round", "train", "convert", "evaluate", "gate", "deploy", "mine", "cluster"],
            [
                lambda: registry.load(plugins),
                lambda: data_format == "auto" or formats.get(data_format),
                lambda: Classes(classes, ignore_classes),
                lambda: make_miner(miner, miner_parameters),
                lambda: check_training(
                    estimator, base_of_round(job_root, base_model, initial_model), estimator_options
                ),
            ],
        )
        ensure_volume(cache_pvc, cache_size)
        return cache_pvc
