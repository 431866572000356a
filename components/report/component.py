"""Report as a KFP component."""

from kfp import dsl

from components import images


@images.small_component
def report(
    title: str,
    data_url: str,
    job_root: str,
    model: str,
    run_id: str,
    ingest_report: dsl.Input[dsl.HTML],
    prepare_report: dsl.Input[dsl.HTML],
    train_report: dsl.Input[dsl.HTML],
    convert_report: dsl.Input[dsl.HTML],
    evaluate_report: dsl.Input[dsl.HTML],
    promote_report: dsl.Input[dsl.HTML],
    figures: dsl.Input[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> str:
    """Join the reports of a run's steps into one page, the result first, and keep it with the job.

    Args:
        title: Heading of the page.
        data_url: See `ingest`.
        job_root: Where the job's state lies; the page goes to `reports/`, with the figures as JSON beside it.
        model: From `promote`: where the model was kept.
        run_id: Name of the run.
        ingest_report: Page of `ingest`.
        prepare_report: Page of `prepare`.
        train_report: Page of `train`.
        convert_report: Page of `convert`.
        evaluate_report: Page of `evaluate`.
        promote_report: Page of `promote`.
        figures: Figures of `evaluate`.
        page: The whole report.
        settings: Parameters by name.

    Returns:
        Where the page was kept.
    """
    from components.core.steps import step

    with step("report", job_root):
        from datetime import UTC, datetime

        from components.core.reports.figures import read_figures
        from components.report.report import join, keep, run_section

        parts = [
            promote_report, evaluate_report, convert_report, train_report, prepare_report, ingest_report,
        ]  # fmt: skip
        told = run_section(model, data_url, job_root, run_id, settings, datetime.now(UTC))
        join(page.path, title, [part.path for part in parts], [told])
        return keep(page.path, job_root, title, read_figures(figures.path), run_id)


@images.small_component
def conclude(report_uri: str, conversion: dsl.Input[dsl.Artifact]) -> None:
    """Fail the run if its model could not be converted; the page that says why is kept by then.

    Args:
        report_uri: From `report`: where the page was kept.
        conversion: From `convert`.
    """
    from components.core.steps import step

    with step("conclude"):
        import json
        from pathlib import Path

        from components.core.errors import InputError

        converted = json.loads(Path(conversion.path).read_text(encoding="utf-8"))
        if converted["outcome"] == "failed":
            raise InputError(f"the model could not be converted: {'; '.join(converted['reasons'])}; see {report_uri}")
