"""One round of incremental learning: what is new, a candidate, the gate, and the commit."""

from kfp import dsl

from components.convert.component import convert
from components.deploy.component import deploy
from components.evaluate.component import judge
from components.ingest.component import collect
from components.mine.component import mine
from components.prepare.component import plan
from components.setup.component import setup_round
from components.train.component import train
from pipelines import cluster
from pipelines.wiring import taken_by


@dsl.pipeline(
    name="incremental-round",
    description="Train a candidate on what is new and a replay of what is known, and deploy it if it is better.",
)
def incremental_round(
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
    """Train a candidate on what is new and a replay of what is known, and deploy it if it is better.

    Args:
        feed_url: Where new samples arrive: folder, `s3://bucket/prefix`, index file or archive.
        job_root: Where the job's state lies: `s3://bucket/prefix`, or on one machine a folder.
        data_path: Folder or file inside the feed where the data set lies.
        data_format: `auto`, `voc`, `yolo`, `coco`, `label-studio`, `csv`, `jsonl`, `sedna`, `masks`, `folder`, or a
            format of a plug-in.
        classes: Class names in order, `helmet,head`, or with renaming, `hat:helmet,person:head`.
        ignore_classes: Classes whose boxes are left out and whose pixels are void; `*` for all that `classes` does not
            name.
        max_bad_fraction: Share of unusable new files, 0 to 1, above which the run fails.
        max_files: Most files an archive may hold.
        max_unpacked_gb: Most gigabytes an archive may unpack to.
        max_compression_ratio: Most bytes that one packed byte may unpack to.
        force_train: Train even if nothing is new, on a replay of what is known.
        force_evaluate: Judge the last round's candidate again, without training; what is new waits for the next round.
        train_ratio: Share of groups to train on, 0 to 1.
        val_ratio: Share of groups to choose the best epoch by, 0 to 1; the rest is for testing.
        seed: Of the split, the replay and training.
        replay_ratio: Samples of earlier rounds to train on again, for each new one.
        replay_limit: Most samples to replay.
        core_rounds: How many of the first rounds give the frozen test set.
        recent_rounds: How many of the last rounds give the sliding test set.
        estimator: Kind of model: `yolo`, `fpn`, `segmentation`, or one of a plug-in.
        base_model: What a candidate starts from: the `champion`, the last `candidate`, or as in `helmet-detection`.
        initial_model: What it starts from while there is none.
        epochs: Passes over the training samples of a round.
        image_size: Pixels, one number or `height,width`.
        batch: Images per step.
        patience: Epochs without progress after which training stops; 0 for never.
        device: `auto`, `cpu`, `mps`, or GPU numbers.
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
        gate_conditions: What a candidate must fulfil, such as `["map50_delta >= 0", "core.map50_delta >= -0.01"]`.
        max_class_loss: Most AP50 that any class may lose against the champion; -1 to ask nothing.
        max_loss: A loss in mAP50 to be ruled out with 95 % confidence; -1 to ask nothing.
        min_samples: Least number of labelled test images.
        require_significant: The gain in mAP50 must be above 0 with 95 % confidence.
        deploy_window: When a model may be deployed; outside it the candidate waits.
        force_deploy: Promote the candidate whatever the gate says, and at any hour.
        workers_timeout: Seconds to wait until the edge workers run the new champion; 0 does not ask them.
        fleet_fraction: Share of the workers, 0 to 1, that is enough; when too many fail for that, the champion before
            is put back.
        trial_fraction: Share of the workers, 0 to 1, that try a candidate before all others get it; 0 for all at once.
        trial_frames: How many images each of them is to look at with it.
        trial_hours: How long that may take before the candidate is withdrawn.
        keep_versions: Candidates that were never deployed to keep.
        label_budget: How many images to ask for; 0 for none.
        random_share: Share of the budget, 0 to 1, drawn at random, as a baseline for the ranking.
        empty_share: Share of the budget, 0 to 1, for images in which the champion finds nothing.
        miner: Rule that ranks the others: `doubt`, `entropy`, `margin`, `IBT`, `Threshold`, `CrossEntropy`, `novelty`,
            `Random`, or one of a plug-in.
        miner_parameters: Of that rule, such as `{"boxes": "mean"}` of `entropy`.
        least_score: Score, 0 to 1, of the boxes that the rule looks at.
        pool_limit: How many images to look at, the latest.
        prelabel_job: Root of another job whose champion, a larger model say, finds the boxes that people correct; empty
            for this job's.
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
    checked = setup_round(**taken_by(setup_round, given))
    collected = collect(**taken_by(collect, given)).after(checked)
    planned = plan(arrivals=collected.outputs["manifest"], **taken_by(plan, given))
    trained = train(manifest=planned.outputs["training"], **taken_by(train, given))
    converted = convert(
        manifest=planned.outputs["everything"], model=trained.outputs["model"], **taken_by(convert, given)
    )
    judged = judge(
        candidate=converted.outputs["converted"],
        conversion=converted.outputs["conversion"],
        core=planned.outputs["core"],
        recent=planned.outputs["recent"],
        **taken_by(judge, given),
    )
    deployed = deploy(
        arrivals=collected.outputs["manifest"],
        everything=planned.outputs["everything"],
        candidate=converted.outputs["converted"],
        judgement=judged.outputs["judgement"],
        metrics=judged.outputs["metrics"],
        collect_report=collected.outputs["report"],
        plan_report=planned.outputs["report"],
        train_report=trained.outputs["report"],
        convert_report=converted.outputs["report"],
        judge_report=judged.outputs["report"],
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        **taken_by(deploy, given),
    )
    # After the commit: what was labelled in this round is not asked for again, and the new champion ranks the rest.
    mined = mine(**taken_by(mine, given)).after(deployed)
    for task in (collected, planned, trained, converted, judged, mined):
        cluster.use_cache(task, checked.output)
    for task in (collected, planned, trained, converted, judged, deployed, mined):
        cluster.use_retries(task)
    for task in (checked, collected, planned, trained, converted, judged, deployed, mined):
        # Every step reads or writes the job's state, which KFP's cache key does not see.
        cluster.use_store(task.set_caching_options(False), store_secret)
    cluster.use_training_node(trained, given)
    return deployed.outputs["Output"]
