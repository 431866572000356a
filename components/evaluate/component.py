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
        metrics: mAP50, mAP50-95, precision, recall and F1 per class, false positives per image; of a segmentation mIoU,
            correct pixels, and IoU, precision and recall per class.
        report: The figures, the curves, the best and the worst images, as a page.
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
        from components.core.reports.page import write_page
        from components.evaluate.measure import measure

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


@images.train_component
def judge(
    candidate: dsl.Input[dsl.Model],
    conversion: dsl.Input[dsl.Artifact],
    core: dsl.Input[dsl.Dataset],
    recent: dsl.Input[dsl.Dataset],
    job_root: str,
    judgement: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    confidence_threshold: float = 0.25,
    nms_threshold: float = 0.7,
    runtime: str = "onnx",
    gate_conditions: list = ["map50_delta >= 0"],  # noqa: B006 - KFP takes the default as a value
    max_class_loss: float = 0.05,
    max_loss: float = -1.0,
    min_samples: int = 20,
    require_significant: bool = False,
    deploy_window: dict = {},  # noqa: B006
    force_deploy: bool = False,
    plugins: str = "",
) -> None:
    """Measure the candidate and the champion on the same samples, and decide whether one replaces the other.

    Args:
        candidate: A bundle.
        conversion: From `convert`; a candidate that could not be converted is not promoted.
        core: Frozen test samples.
        recent: Test samples of the last rounds.
        job_root: Where the job's state lies.
        judgement: Outcome (promoted, rejected, pending or error) with every reason, as JSON.
        metrics: The candidate's figures, and how they differ from the champion's.
        report: Both models side by side, and the verdict, as a page.
        confidence_threshold: Score, 0 to 1, at which precision, recall and F1 are taken.
        nms_threshold: Overlap (IoU, 0 to 1) above which the worse of two boxes of a class is dropped.
        runtime: What runs the models: `onnx`, or one of a plug-in.
        gate_conditions: What must hold, such as `["map50_delta >= 0", "min(core.recall_delta) >= -0.02"]`; plain names
            are of all samples, `core.` and `recent.` of one set; `_delta` and `_rel` are against the champion.
        max_class_loss: Most AP50 that any class may lose, 0 to 1; -1 to ask nothing.
        max_loss: A loss in mAP50 of this much must be ruled out with 95 % confidence, 0 to 1; -1 to ask nothing.
        min_samples: Least number of labelled test images.
        require_significant: The gain in mAP50 must be above 0 with 95 % confidence.
        deploy_window: When a model may be deployed, as `{"start": ..., "end": ..., "timezone": ..., "weekdays": ...}`;
            outside it the candidate waits.
        force_deploy: Promote whatever the answers.
        plugins: Modules to import first, separated by commas, for a runtime of your own.
    """
    from components.core.steps import step

    with step("judge", job_root, core.metadata.get("round")):
        import json
        import logging
        from datetime import UTC, datetime
        from pathlib import Path

        from components.core import plugins as registry
        from components.core.cache import cache_folder, own_folder
        from components.core.job.job import Job
        from components.core.manifest import Manifest
        from components.core.reports.page import write_page
        from components.core.rules.conditions import Condition
        from components.core.rules.window import Window
        from components.evaluate.compare import compare
        from components.evaluate.gate import conversion_check
        from components.evaluate.gate import judge as decide
        from components.evaluate.gate_report import sections

        registry.load(plugins)
        job = Job.open(job_root)
        state, _ = job.read()
        champion = own_folder(job_root) / "champion" / state.champion if state.champion else None
        if champion and state.champion:
            job.fetch_bundle(state.champion, champion)
        conditions = Condition.parse(gate_conditions) if gate_conditions else None
        comparison = compare(
            Path(candidate.path),
            champion,
            Manifest.read(core.path),
            Manifest.read(recent.path),
            confidence_threshold=confidence_threshold,
            nms_threshold=nms_threshold,
            cache_folder=cache_folder(job_root) / "blobs",
            runtime=runtime,
            named=conditions.metrics() if conditions else (),
        )
        decided = decide(
            comparison,
            now=datetime.now(UTC),
            conditions=conditions,
            no_regression=max_class_loss if max_class_loss >= 0 else None,
            min_samples=int(min_samples),
            require_significant=require_significant,
            max_loss=max_loss if max_loss >= 0 else None,
            window=Window.parse(deploy_window) if deploy_window else None,
            further=[conversion_check(json.loads(Path(conversion.path).read_text(encoding="utf-8")))],
            force=force_deploy,
        )
        logging.info("%s", decided.describe())
        Path(judgement.path).write_text(json.dumps(decided.to_dict(), indent=2), encoding="utf-8")
        judgement.metadata["champion"] = state.champion or ""
        judgement.metadata["outcome"] = str(decided.outcome)
        write_page(report.path, "Judge", sections(comparison, decided))
        for name, value in comparison.as_flat().items():
            metrics.log_metric(name, value)
