"""The straight pass: images in, a judged detector out."""

from kfp import dsl

from components.convert.component import convert
from components.evaluate.component import evaluate
from components.ingest.component import ingest
from components.prepare.component import prepare
from components.report.component import report
from components.setup.component import setup
from components.train.component import train
from pipelines import cluster
from pipelines.wiring import taken_by


@dsl.pipeline(
    name="helmet-detection",
    description="Bring images in, train a detector on them, and measure it on images it has not seen.",
)
def helmet_detection(
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
    """Bring images in, train a detector on them, and measure it on images it has not seen.

    Args:
        data_url: Archive (zip, tar), folder or index file: `https://...`, `s3://bucket/key`, `file:///...` or a path.
        job_root: Where the job's state lies: `s3://bucket/prefix`, or on one machine a folder.
        data_path: Folder or file inside the archive or folder where the data set lies.
        data_format: `auto`, `voc`, `yolo`, `coco`, `label-studio`, `csv`, `jsonl`, `sedna`, `masks`, `folder`, or a
            format of a plug-in.
        classes: Class names in order, `helmet,head`, or with renaming, `hat:helmet,person:head`; empty for all.
        ignore_classes: Classes whose boxes are left out and whose pixels are void; `*` for all that `classes` does not
            name.
        max_bad_fraction: Share of unusable files, 0 to 1, above which the run fails.
        max_files: Most files an archive may hold.
        max_unpacked_gb: Most gigabytes an archive may unpack to.
        max_compression_ratio: Most bytes that one packed byte may unpack to.
        train_ratio: Share of groups to train on, 0 to 1.
        val_ratio: Share of groups to choose the best epoch by, 0 to 1; the rest is for testing.
        split_by: `hash`, or `source` to keep the splits that the data set itself has.
        group_pattern: Regular expression over the source path with one group; the same match means the same split.
        seed: Of the split and of training.
        estimator: Kind of model: `yolo`, `fpn`, `segmentation`, or one of a plug-in.
        base_model: `.pt` weights, a bundle folder, a URL ending in `#sha256=<digest>`, or a model YAML such as
            `yolo11n.yaml`, which trains from nothing. Nothing is downloaded by name.
        epochs: Passes over the training samples.
        image_size: Pixels, one number or `height,width` such as `352,640`. Training takes the longer side.
        batch: Images per step.
        patience: Epochs without progress after which training stops; 0 for never.
        device: `auto`, `cpu`, `mps`, or GPU numbers such as `0` or `0,1`.
        workers: Processes that load images.
        estimator_options: Further settings by the estimator's own names, such as `{"mosaic": 0}`.
        experiment_labels: `name=value,...`, kept with the model and shown in the report.
        targets: Chips such as `rk3588,rk3568`; empty to leave the model as it is.
        quantization: `int8` or `fp16`.
        quantization_retries: What to try, in this order, when int8 loses too much: `kl_divergence`, `mmse`, `fp16`.
        calibration_size: Most training images that int8 takes its ranges from.
        check_size: Most labelled images to measure on.
        max_map_loss: Most that mAP50 and mAP50-95 may fall, 0 to 1; of a segmentation mIoU and correct pixels.
        max_f1_loss: Most that the F1 of any class may fall at the deployed confidence, 0 to 1; or its IoU.
        min_score_ratio: Least that the highest score may be of what it was, 0 to 1.
        conversion_timeout: Seconds that one build with its measurement may take.
        confidence_threshold: Score, 0 to 1, the model is to be deployed with.
        nms_threshold: Overlap (IoU, 0 to 1) above which the worse of two boxes of a class is dropped.
        plugins: Modules to import first, separated by commas.
        cache_pvc: Cluster: persistent volume claim for the cache; made when it is missing.
        cache_size: Cluster: size of that claim.
        cpu_request: Cluster: CPUs that training asks for.
        memory_request: Cluster: memory that training asks for.
        gpu_limit: Cluster: number of GPUs for training.
        gpu_type: Cluster: resource name of the GPUs.
        node_selector: Cluster: labels of the nodes that training may run on.
        tolerations: Cluster: Kubernetes tolerations of the training step.
        store_secret: Cluster: secret with the store's credentials.

    Returns:
        URI of the report.
    """
    given = dict(locals())
    checked = setup(**given)
    brought = ingest(**taken_by(ingest, given))
    prepared = prepare(samples=brought.outputs["manifest"], **taken_by(prepare, given))
    trained = train(manifest=prepared.outputs["manifest"], **taken_by(train, given))
    converted = convert(
        manifest=prepared.outputs["manifest"], model=trained.outputs["model"], **taken_by(convert, given)
    )
    measured = evaluate(
        manifest=prepared.outputs["manifest"], model=converted.outputs["converted"], **taken_by(evaluate, given)
    )
    reported = report(
        title="Helmet detection",
        job_root=job_root,
        ingest_report=brought.outputs["report"],
        prepare_report=prepared.outputs["report"],
        train_report=trained.outputs["report"],
        convert_report=converted.outputs["report"],
        conversion=converted.outputs["conversion"],
        evaluate_report=measured.outputs["report"],
        metrics=measured.outputs["metrics"],
    )
    for task in (brought, prepared, trained, converted, measured):
        cluster.use_cache(task.after(checked), checked.output)
    for task in (brought, prepared, trained, converted, measured, reported):
        cluster.use_retries(task)
    for task in (checked, brought, prepared, trained, converted, measured, reported):
        # Every step reads or writes the store, which KFP's cache key does not see.
        cluster.use_store(task.set_caching_options(False), store_secret)
    cluster.use_training_node(trained, given)
    return reported.outputs["Output"]
