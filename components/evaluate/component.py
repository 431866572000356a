"""Evaluate as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def evaluate(
    manifest: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    job_root: str,
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    confidence_threshold: float = 0.25,
    nms_threshold: float = 0.7,
    split: str = "test",
    runtime: str = "onnx",
    plugins: str = "",
) -> None:
    """Measure a model on samples it has not seen.

    Args:
        manifest: Samples with splits, from `prepare`.
        model: A bundle.
        job_root: Where the job's state lies.
        metrics: mAP50, mAP50-95, precision, recall and F1 per class, false positives per image.
        report: The figures, the curves, the best and the worst pictures, as a page.
        confidence_threshold: Score, 0 to 1, at which precision, recall and F1 are taken.
        nms_threshold: Overlap (IoU, 0 to 1) above which the worse of two boxes of a class is dropped.
        split: Which samples: `test`, `val` or `train`.
        runtime: What runs the model: `onnx`, or one of a plug-in.
        plugins: Modules to import first, separated by commas, for a runtime of your own.
    """
    from components.core.steps import step

    with step("evaluate"):
        from pathlib import Path

        from components.core import plugins as registry
        from components.core.cache import cache_folder
        from components.core.manifest import Manifest
        from components.core.reports import write_page
        from components.evaluate.evaluate import evaluate as measure

        registry.load(plugins)
        evaluation = measure(
            Manifest.read(manifest.path),
            Path(model.path),
            split=split,
            confidence_threshold=confidence_threshold,
            nms_threshold=nms_threshold,
            cache_folder=cache_folder(job_root) / "blobs",
            runtime=runtime,
        )
        write_page(report.path, "Evaluate", evaluation.sections)
        for name, value in evaluation.as_flat().items():
            metrics.log_metric(name, value)
