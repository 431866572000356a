"""Report as a KFP component."""

from kfp import dsl

from components import images


@images.small_component
def report(
    title: str,
    job_root: str,
    ingest_report: dsl.Input[dsl.HTML],
    prepare_report: dsl.Input[dsl.HTML],
    train_report: dsl.Input[dsl.HTML],
    convert_report: dsl.Input[dsl.HTML],
    evaluate_report: dsl.Input[dsl.HTML],
    conversion: dsl.Input[dsl.Artifact],
    metrics: dsl.Input[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Join the reports of a run's steps into one page, the result first, and keep it with the job.

    Args:
        title: Heading of the page.
        job_root: Where the job's state lies; the page goes to `reports/`, with the figures as JSON beside it.
        ingest_report: Page of `ingest`.
        prepare_report: Page of `prepare`.
        train_report: Page of `train`.
        convert_report: Page of `convert`.
        evaluate_report: Page of `evaluate`.
        conversion: From `convert`; where it failed, so does this step, after the report is kept.
        metrics: Figures of `evaluate`.
        page: The whole report.

    Returns:
        Where the page was kept.
    """
    from components.core.steps import step

    with step("report"):
        import json
        from pathlib import Path

        from components.core.errors import InputError
        from components.report.report import join, keep

        join(
            page.path,
            title,
            [evaluate_report.path, convert_report.path, train_report.path, prepare_report.path, ingest_report.path],
        )
        kept = keep(page.path, job_root, title, dict(metrics.metadata))
        converted = json.loads(Path(conversion.path).read_text(encoding="utf-8"))
        if converted["outcome"] == "failed":
            raise InputError(f"the model could not be converted: {'; '.join(converted['reasons'])}; see {kept}")
        return kept
