"""Evaluate as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def evaluate(
    manifest: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    job_root: str,
    figures: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    split: str = "test",
    run_id: str = "",
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Evaluate a model on samples it has not seen.

    Args:
        manifest: Samples with splits, from `prepare`.
        model: A bundle.
        job_root: Where the job is kept.
        figures: mAP50, mAP50-95, precision, recall and F1 per class, false positives per image; of a segmentation mIoU,
            correct pixels, and IoU, precision and recall per class; as JSON.
        metrics: The ten of them that matter.
        classification: What each class is taken for, and what each confidence finds.
        report: The figures, the curves, the best and the worst images, as a page.
        split: Which samples: `test`, `val` or `train`.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("evaluate", job_root):
        report.metadata["display_name"] = "evaluate_report"  # what the pages of Kubeflow show
        from pathlib import Path

        from components.core import plugins
        from components.core.cache import cache_folder
        from components.core.manifest import Manifest
        from components.core.parameters import CommonSettings, EvaluateSettings, read
        from components.core.reports.figures import key_figures, log_classification, log_figures, write_figures
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.evaluate.evaluate import evaluate as measure
        from components.evaluate.predictor import open_predictor

        common, thresholds = read(CommonSettings, settings), read(EvaluateSettings, settings)
        plugins.load(common.plugins)
        evaluation = measure(
            Manifest.read(manifest.path),
            open_predictor(Path(model.path), nms_threshold=thresholds.nms_threshold, runtime=common.runtime),
            split=split,
            confidence_threshold=thresholds.confidence_threshold,
            cache_folder=cache_folder(job_root) / "blobs",
        )
        write_page(report.path, "Evaluate", evaluation.sections)
        keep_part(job_root, run_id, "evaluate.html", report.path)
        measured, task = evaluation.measured, evaluation.measured.task
        write_figures(figures.path, evaluation.as_flat())
        keep_part(job_root, run_id, "figures.json", figures.path)
        log_figures(metrics, key_figures(evaluation.as_flat(), task.figures))
        log_classification(classification, task.confusion(measured), task.confidence_curve(measured))


@images.train_component
def judge(
    candidate: dsl.Input[dsl.Model],
    conversion: dsl.Input[dsl.Artifact],
    core: dsl.Input[dsl.Dataset],
    recent: dsl.Input[dsl.Dataset],
    job_root: str,
    judgement: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006
) -> None:
    """Evaluate the candidate and the champion on the same samples, and decide whether one replaces the other.

    Args:
        candidate: A bundle.
        conversion: From `convert`; a candidate that could not be converted is not promoted.
        core: Frozen test samples.
        recent: Test samples of the last rounds.
        job_root: Where the job is kept.
        judgement: Outcome (promoted, rejected, pending or error) with every reason, as JSON.
        figures: The candidate's figures, and how they differ from the champion's, as JSON.
        metrics: The ten of them that matter.
        classification: What the candidate takes each class for, and what it finds at each confidence.
        report: Both models side by side, and the verdict, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("judge", job_root, core.metadata.get("round"), settings):
        report.metadata["display_name"] = "judge_report"  # what the pages of Kubeflow show
        import json
        import logging
        from datetime import UTC, datetime
        from pathlib import Path

        from components.core import plugins
        from components.core.cache import cache_folder, version_folder
        from components.core.job.job import Job
        from components.core.manifest import Manifest
        from components.core.parameters import CommonSettings, EvaluateSettings, GateSettings, read
        from components.core.reports.figures import key_figures, log_classification, log_figures, write_figures
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.evaluate.compare import ALL, CANDIDATE
        from components.evaluate.gate_report import sections
        from components.evaluate.verdict import compare_and_judge

        common = read(CommonSettings, settings)
        plugins.load(common.plugins)
        job = Job.open(job_root)
        state, _ = job.read()
        champion = version_folder(job_root, "champion", state.champion) if state.champion else None
        if champion and state.champion:
            job.fetch_bundle(state.champion, champion, state)
        models = {"candidate": Path(candidate.path), **({"champion": champion} if champion else {})}
        comparison, decided = compare_and_judge(
            models,
            {"core": Manifest.read(core.path), "recent": Manifest.read(recent.path)},
            json.loads(Path(conversion.path).read_text(encoding="utf-8")),
            gate=read(GateSettings, settings),
            thresholds=read(EvaluateSettings, settings),
            runtime=common.runtime,
            cache_folder=cache_folder(job_root) / "blobs",
            now=datetime.now(UTC),
        )
        logging.info("%s", decided.describe())
        Path(judgement.path).write_text(json.dumps(decided.to_dict(), indent=2), encoding="utf-8")
        judgement.metadata["champion"] = state.champion or ""
        judgement.metadata["outcome"] = str(decided.outcome)
        write_page(report.path, "Judge", sections(comparison, decided))
        keep_part(job_root, run_id, "judge.html", report.path)
        measured, task = comparison.scores[ALL][CANDIDATE].measured, comparison.task
        write_figures(figures.path, comparison.as_flat())
        log_figures(metrics, key_figures(comparison.as_flat(), task.figures))
        log_classification(classification, task.confusion(measured), task.confidence_curve(measured))
