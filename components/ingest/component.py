"""Ingest as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def ingest(
    data_url: str,
    job_root: str,
    manifest: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    data_path: str = "",
    data_format: str = "auto",
    classes: str = "",
    ignore_classes: str = "",
    max_bad_fraction: float = 0.1,
    max_files: int = 1000000,
    max_unpacked_gb: float = 100.0,
    max_compression_ratio: float = 200.0,
    plugins: str = "",
) -> None:
    """Bring images and labels in: verify each, put it in the job's store, and list them in a manifest.

    Args:
        data_url: Archive (zip, tar), folder or index file: `https://...`, `s3://bucket/key`, `file:///...` or a path.
        job_root: Where the job's state lies: `s3://bucket/prefix` or, on one machine, a folder.
        manifest: Table of samples (Parquet).
        quarantine: What was left out and why (CSV: kind, source, reason).
        counts: How many images, boxes, masks, duplicates and quarantined files there are.
        report: What came in, as a page.
        data_path: Folder or file inside the archive or folder where the data set lies.
        data_format: `auto`, `voc`, `yolo`, `coco`, `label-studio`, `csv`, `jsonl`, `sedna`, `masks`, `folder`, or a
            format of a plug-in.
        classes: Class names in order, `helmet,head`, or with renaming, `hat:helmet,person:head`; empty for all that
            the data set declares.
        ignore_classes: Classes whose boxes are left out and whose pixels are void; `*` for all that `classes` does not
            name.
        max_bad_fraction: Share of quarantined files, 0 to 1, above which the step fails.
        max_files: Most files an archive may hold.
        max_unpacked_gb: Most gigabytes an archive may unpack to.
        max_compression_ratio: Most bytes that one packed byte may unpack to.
        plugins: Modules to import first, separated by commas, for formats of your own.
    """
    from components.core.steps import step

    with step("ingest"):
        from pathlib import Path

        from components.core import plugins as registry
        from components.core.reports.page import write_page
        from components.ingest.ingest import ingest as bring_in
        from components.ingest.quarantine import as_csv
        from components.ingest.report import sections

        registry.load(plugins)
        ingested = bring_in(
            data_url,
            job_root,
            data_path=data_path,
            data_format=data_format,
            classes=classes,
            ignore_classes=ignore_classes,
            max_bad_fraction=max_bad_fraction,
            max_files=int(max_files),
            max_unpacked_gb=max_unpacked_gb,
            max_compression_ratio=max_compression_ratio,
        )
        ingested.manifest.write(manifest.path)
        Path(quarantine.path).write_text(as_csv(ingested.quarantine), encoding="utf-8")
        write_page(report.path, "Ingest", sections(ingested))
        for name, count in ingested.counts.items():
            counts.log_metric(name, count)


@images.train_component
def collect(
    feed_url: str,
    job_root: str,
    manifest: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    data_path: str = "",
    data_format: str = "auto",
    classes: str = "",
    ignore_classes: str = "",
    max_bad_fraction: float = 0.1,
    max_files: int = 1000000,
    max_unpacked_gb: float = 100.0,
    max_compression_ratio: float = 200.0,
    force_evaluate: bool = False,
    plugins: str = "",
) -> None:
    """Bring in what a feed has shown since the job's last round.

    Args:
        feed_url: Where new samples arrive; see `ingest` for what can be read.
        job_root: Where the job's state lies.
        manifest: Samples that the job does not have yet, or has with other labels; its metadata says which round they
            are for and how far the feed has been read.
        quarantine: What was left out and why (CSV: kind, source, reason).
        counts: How many images, boxes, masks, duplicates and quarantined files there are.
        report: What came in, as a page.
        data_path: See `ingest`.
        data_format: See `ingest`.
        classes: See `ingest`; for a feed name them, since a few images need not show all.
        ignore_classes: See `ingest`.
        max_bad_fraction: See `ingest`.
        max_files: See `ingest`.
        max_unpacked_gb: See `ingest`.
        max_compression_ratio: See `ingest`.
        force_evaluate: Bring in nothing: the round judges the last candidate again, and what is new is left for the
            next.
        plugins: Modules to import first, separated by commas, for formats of your own.
    """
    from components.core.steps import step

    with step("collect"):
        from pathlib import Path

        from components.core import plugins as registry
        from components.core.job.job import Job
        from components.core.reports.page import write_page
        from components.ingest.feed import take_new, take_nothing
        from components.ingest.quarantine import as_csv
        from components.ingest.report import sections

        registry.load(plugins)
        state, _ = Job.open(job_root).read()
        arrivals = (
            take_nothing(job_root)
            if force_evaluate
            else take_new(
                feed_url,
                job_root,
                data_path=data_path,
                data_format=data_format,
                classes=classes,
                ignore_classes=ignore_classes,
                max_bad_fraction=max_bad_fraction,
                max_files=int(max_files),
                max_unpacked_gb=max_unpacked_gb,
                max_compression_ratio=max_compression_ratio,
                round_number=state.round + 1,
                full=True,
            )
        )
        arrivals.manifest.write(manifest.path)
        manifest.metadata["cursor"] = arrivals.cursor
        manifest.metadata["round"] = state.round + 1
        Path(quarantine.path).write_text(as_csv(arrivals.quarantine), encoding="utf-8")
        write_page(report.path, "Collect", sections(arrivals))
        for name, count in arrivals.counts.items():
            counts.log_metric(name, count)
