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
        counts: Samples per split, negatives, those with masks, and the unlabelled.
        report: Class balance, box sizes and labelled images, as a page.
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
        from components.core.reports.page import write_page
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


@images.train_component
def plan(
    arrivals: dsl.Input[dsl.Dataset],
    job_root: str,
    training: dsl.Output[dsl.Dataset],
    everything: dsl.Output[dsl.Dataset],
    core: dsl.Output[dsl.Dataset],
    recent: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    train_ratio: float = 0.8,
    val_ratio: float = 0.1,
    seed: int = 0,
    replay_ratio: float = 1.0,
    replay_limit: int = 5000,
    core_rounds: int = 1,
    recent_rounds: int = 3,
    min_samples: int = 20,
    epochs: int = 30,
    force_train: bool = False,
    force_evaluate: bool = False,
) -> None:
    """Choose what a round trains on (what is new, and a replay of what is known) and what it is measured on.

    Args:
        arrivals: New samples, from `collect`.
        job_root: Where the job's state lies.
        training: Samples to train on and to choose the best epoch by.
        everything: Every sample taken in so far; the job's once the round is committed.
        core: Frozen test samples of the first rounds.
        recent: Test samples of the last rounds.
        counts: How many of each.
        report: The same, as a page.
        train_ratio: See `prepare`.
        val_ratio: See `prepare`.
        seed: Of splits and of the replay.
        replay_ratio: Samples of earlier rounds to train on again, for each new one.
        replay_limit: Most samples to replay.
        core_rounds: How many of the first rounds give the core set.
        recent_rounds: How many of the last rounds give the recent set.
        min_samples: While a test set has fewer samples, it takes in the next round too.
        epochs: Passes over the training samples that are planned, for what the round costs.
        force_train: Train even if nothing is new, on a replay of at most `replay_limit` samples.
        force_evaluate: Plan no training; the last candidate is judged again.
    """
    from components.core.steps import step

    with step("plan"):
        from components.core.cache import cache_folder
        from components.core.job.job import Job
        from components.core.manifest import Manifest
        from components.core.reports.page import write_page
        from components.prepare.replay import round_manifest, section

        job = Job.open(job_root)
        state, _ = job.read()
        data = round_manifest(
            job.manifest(state, cache_folder(job_root)),
            Manifest.read(arrivals.path),
            round_number=int(arrivals.metadata["round"]),
            train_ratio=train_ratio,
            val_ratio=val_ratio,
            seed=int(seed),
            replay_ratio=replay_ratio,
            replay_limit=int(replay_limit),
            core_rounds=int(core_rounds),
            recent_rounds=int(recent_rounds),
            min_test_samples=int(min_samples),
            purpose="evaluate" if force_evaluate else "train" if force_train else "learn",
        )
        for artifact, samples in (
            (training, data.training),
            (everything, data.manifest),
            (core, data.core),
            (recent, data.recent),
        ):
            samples.write(artifact.path)
            if not force_evaluate:  # which no poll repeats, so that its failures do not count
                artifact.metadata["round"] = arrivals.metadata["round"]
        write_page(report.path, "Plan", [section(data, 0 if force_evaluate else int(epochs))])
        for name, count in (data.counts | data.budget(0 if force_evaluate else int(epochs))).items():
            counts.log_metric(name, count)
