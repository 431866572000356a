"""Prepare as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def prepare(
    samples: dsl.Input[dsl.Dataset],
    job_root: str,
    manifest: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    train_ratio: float = 0.8,
    val_ratio: float = 0.1,
    split_by: str = "hash",
    group_pattern: str = "",
    seed: int = 0,
) -> None:
    """Split samples into train, val and test by a hash of their group, so that a sample never changes sides.

    Args:
        samples: Manifest from `ingest`.
        job_root: Where the job's state lies.
        manifest: The same samples with their splits.
        counts: Samples per split, negatives, and the unlabelled.
        report: Class balance, box sizes and labelled pictures, as a page.
        train_ratio: Share of groups to train on, 0 to 1.
        val_ratio: Share of groups to choose the best epoch by, 0 to 1; the rest is for testing.
        split_by: `hash`, or `source` to keep the splits that the data set itself has.
        group_pattern: Regular expression over the source path with one group; samples with the same match (one video,
            one site) share a split.
        seed: Changes every decision.
    """
    from components.core.steps import step

    with step("prepare"):
        from components.core.cache import cache_folder
        from components.core.manifest import Manifest
        from components.core.reports import write_page
        from components.prepare.prepare import prepare as split
        from components.prepare.prepare import sections

        prepared = split(
            Manifest.read(samples.path),
            train_ratio=train_ratio,
            val_ratio=val_ratio,
            split_by=split_by,
            group_pattern=group_pattern,
            seed=int(seed),
        )
        prepared.manifest.write(manifest.path)
        write_page(report.path, "Prepare", sections(prepared, cache_folder(job_root) / "blobs"))
        for name, count in prepared.counts.items():
            counts.log_metric(name, count)
