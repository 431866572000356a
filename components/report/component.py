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
    page: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> str:
    """Join the reports of a run's steps into one page, the result first, and keep it with the job.

    Args:
        title: Heading of the page.
        data_url: See `ingest`.
        job_root: Where the job's state lies; the page goes to `reports/`, with the figures as JSON beside it.
        model: From `promote`: where the model was kept.
        run_id: Name of the run, under which its steps have kept their pages.
        page: The whole report.
        settings: Parameters by name.

    Returns:
        Where the page was kept.
    """
    from components.core.steps import step

    with step("report", job_root):
        import json
        from datetime import UTC, datetime

        from components.core.reports.page import write_page
        from components.core.reports.parts import read_pages, read_part, remove_old_parts
        from components.core.stores.open import open_store
        from components.report.report import keep, run_section

        now, steps = datetime.now(UTC), ("promote", "evaluate", "convert", "train", "prepare", "ingest")
        told = run_section(model, data_url, job_root, run_id, settings, now)
        write_page(page.path, title, [*read_pages(job_root, run_id, steps), told])
        kept = keep(page.path, job_root, title, json.loads(read_part(job_root, run_id, "figures.json")), run_id)
        remove_old_parts(open_store(job_root), now)
        return kept


@images.small_component
def conclude(report_uri: str, job_root: str, run_id: str) -> None:
    """Fail the run if its model could not be converted; the page that says why is kept by then.

    Args:
        report_uri: From `report`: where the page was kept.
        job_root: Where the job is kept.
        run_id: Name of the run, under which `convert` has kept what became of the model.
    """
    from components.core.steps import step

    with step("conclude"):
        import json

        from components.core.errors import InputError
        from components.core.reports.parts import read_part

        converted = json.loads(read_part(job_root, run_id, "conversion.json"))
        if converted["outcome"] == "failed":
            raise InputError(f"the model could not be converted: {'; '.join(converted['reasons'])}; see {report_uri}")
