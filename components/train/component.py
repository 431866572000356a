"""Train as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def train(
    manifest: dsl.Input[dsl.Dataset],
    job_root: str,
    model: dsl.Output[dsl.Model],
    training: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    estimator: str = "yolo",
    base_model: str = "yolo11n.yaml",
    initial_model: str = "yolo11n.yaml",
    epochs: int = 100,
    image_size: str = "640",
    batch: int = 16,
    patience: int = 50,
    device: str = "auto",
    workers: int = 2,
    seed: int = 0,
    estimator_options: dict = {},  # noqa: B006 - KFP takes the default as a value
    confidence_threshold: float = 0.25,
    nms_threshold: float = 0.7,
    experiment_labels: str = "",
    force_evaluate: bool = False,
    plugins: str = "",
) -> None:
    """Train a candidate model; a killed run goes on from its last epoch.

    Args:
        manifest: Samples with splits, from `prepare`.
        job_root: Where the job's state lies; checkpoints go there after each epoch.
        model: The candidate as a bundle: `model.pt`, `model.onnx`, `model.json`.
        training: Figures of the last epoch.
        report: Curves and sample predictions, as a page.
        estimator: Kind of model: `yolo`, `fpn`, `segmentation`, or one of a plug-in.
        base_model: What to start from: `.pt` weights, a bundle folder, a URL ending in `#sha256=<digest>`, or a model
            YAML such as `yolo11n.yaml`, which trains from nothing; or the job's `champion` or last `candidate`. Nothing
            is downloaded by name.
        initial_model: What to start from while the job has no champion.
        epochs: Passes over the training samples.
        image_size: Pixels, one number or `height,width` such as `352,640`. Training takes the longer side.
        batch: Images per step.
        patience: Epochs without progress on val after which training stops; 0 for never.
        device: `auto`, `cpu`, `mps`, or GPU numbers such as `0` or `0,1`.
        workers: Processes that load images.
        seed: Of every random choice.
        estimator_options: Further settings by the estimator's own names; for `yolo` the training settings of
            ultralytics, such as `{"mosaic": 0, "lr0": 0.002}`.
        confidence_threshold: Score, 0 to 1, the model is to be deployed with.
        nms_threshold: Overlap (IoU, 0 to 1) above which the worse of two boxes of a class is dropped.
        experiment_labels: `name=value,...`, kept with the model and shown in the report.
        force_evaluate: Train nothing, and bring the last round's candidate, to be judged again.
        plugins: Modules to import first, separated by commas, for an estimator of your own.
    """
    from components.core.steps import step

    with step("train", job_root, manifest.metadata.get("round")):
        from pathlib import Path

        from components.core.manifest import Manifest
        from components.core.reports.page import write_page
        from components.train.candidate import last_candidate
        from components.train.train import train as fit

        trained = (
            last_candidate(job_root, Path(model.path))
            if force_evaluate
            else fit(
                Manifest.read(manifest.path),
                Path(model.path),
                job_root=job_root,
                estimator=estimator,
                base_model=base_model,
                initial_model=initial_model,
                epochs=int(epochs),
                image_size=image_size,
                batch=int(batch),
                patience=int(patience),
                device=device,
                workers=int(workers),
                seed=int(seed),
                estimator_options=estimator_options,
                confidence_threshold=confidence_threshold,
                nms_threshold=nms_threshold,
                experiment_labels=experiment_labels,
                plugin_modules=plugins,
            )
        )
        write_page(report.path, "Train", trained.sections)
        model.metadata["classes"] = list(trained.bundle.classes)
        model.metadata["image_size"] = list(trained.bundle.image_size)
        for name, value in (trained.history or [{}])[-1].items():
            training.log_metric(name, value)
