"""Ingest as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def ingest(
    data_url: str,
    job_root: str,
    manifest: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Bring images and labels in: verify each, put it in the job's store, and list them in a manifest.

    Args:
        data_url: The data set: an archive, a folder or an index file.
        job_root: Where the job is kept.
        manifest: Table of samples (Parquet).
        quarantine: What was left out and why (CSV: kind, source, reason).
        report: What came in, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("ingest", job_root):
        report.metadata["display_name"] = "ingest_report"  # what the pages of Kubeflow show
        from pathlib import Path

        from components.core import plugins
        from components.core.parameters import DataSettings, PluginSettings, read
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.ingest.ingest import ingest as bring_in
        from components.ingest.quarantine import as_csv
        from components.ingest.report import sections

        data = read(DataSettings, settings)
        plugins.load(read(PluginSettings, settings).plugins)
        ingested = bring_in(data_url, job_root, **dict(data))
        ingested.manifest.write(manifest.path)
        Path(quarantine.path).write_text(as_csv(ingested.quarantine), encoding="utf-8")
        write_page(report.path, "Ingest", sections(ingested))
        keep_part(job_root, run_id, "ingest.html", report.path)


@images.train_component
def collect(
    feed_url: str,
    job_root: str,
    manifest: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006
) -> None:
    """Bring in what a feed has shown since the job's last round; nothing with `force_evaluate`.

    Args:
        feed_url: Where new samples arrive.
        job_root: Where the job is kept.
        manifest: Samples that the job does not have yet, or has with other labels; its metadata says which round they
            are for and how far the feed has been read.
        quarantine: What was left out and why (CSV: kind, source, reason).
        report: What came in, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("collect", job_root):
        report.metadata["display_name"] = "collect_report"  # what the pages of Kubeflow show
        from pathlib import Path

        import polars as pl

        from components.core import plugins
        from components.core.job.job import Job
        from components.core.job.label_requests import read_lists
        from components.core.parameters import DataSettings, LabelStudioSettings, PluginSettings, RoundSettings, read
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.ingest import label_agreement
        from components.ingest.answers import fetch_answers
        from components.ingest.feed import take_new, take_nothing
        from components.ingest.quarantine import as_csv
        from components.ingest.report import sections

        data = read(DataSettings, settings)
        plugins.load(read(PluginSettings, settings).plugins)
        job = Job.open(job_root)
        state, _ = job.read()
        number = state.round + 1
        shown = []
        if read(RoundSettings, settings).force_evaluate:
            arrivals = take_nothing(job_root)
        else:
            asked = read(LabelStudioSettings, settings).model_dump(exclude={"label_queue"})
            answers = fetch_answers(job.store, **asked)
            arrivals = take_new(feed_url, job_root, round_number=number, full=True, **dict(data), answers=answers)
            answered = arrivals.manifest.with_ids(answers.labelled() if answers else ())
            lists = list(read_lists(job.store)) if len(answered) else []
            boxes = answered.where(pl.col("annotations").is_not_null())
            shown = label_agreement.section(label_agreement.label_agreement(lists, boxes))
            shown += label_agreement.mask_section(label_agreement.mask_agreement(lists, answered, job.store))
        arrivals.manifest.write(manifest.path, arrivals.withdrawn)
        manifest.metadata["cursor"] = arrivals.cursor
        manifest.metadata["round"] = number
        Path(quarantine.path).write_text(as_csv(arrivals.quarantine), encoding="utf-8")
        write_page(report.path, "Collect", [*sections(arrivals), *shown])
        keep_part(job_root, run_id, "collect.html", report.path)
