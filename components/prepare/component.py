"""Prepare as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def prepare(
    samples: dsl.Input[dsl.Dataset],
    job_root: str,
    manifest: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Split samples into train, val and test by a hash of their group, so that a sample never changes sides.

    Args:
        samples: Manifest from `ingest`.
        job_root: Where the job is kept.
        manifest: The same samples with their splits.
        report: Class balance, box sizes and labelled images, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("prepare", job_root):
        report.metadata["display_name"] = "prepare_report"  # what the pages of Kubeflow show
        from components.core.cache import cache_folder
        from components.core.job.job import Job
        from components.core.manifest import Manifest
        from components.core.parameters import CommonSettings, SourceSplitSettings, read
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.prepare.prepare import prepare as split
        from components.prepare.prepare import sections

        chosen = read(SourceSplitSettings, settings)
        job = Job.open(job_root)
        known = job.manifest(job.read()[0], cache_folder(job_root))
        seed = read(CommonSettings, settings).seed
        prepared = split(Manifest.read(samples.path), seed=seed, known=known, **dict(chosen))
        prepared.manifest.write(manifest.path)
        write_page(report.path, "Prepare", sections(prepared, cache_folder(job_root) / "blobs"))
        keep_part(job_root, run_id, "prepare.html", report.path)
        prepared.check()


@images.train_component
def plan(
    arrivals: dsl.Input[dsl.Dataset],
    job_root: str,
    training: dsl.Output[dsl.Dataset],
    everything: dsl.Output[dsl.Dataset],
    core: dsl.Output[dsl.Dataset],
    recent: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006
) -> None:
    """Choose what a round trains on (what is new, and a replay of what is known) and what it is evaluated on.

    Args:
        arrivals: New samples, from `collect`.
        job_root: Where the job is kept.
        training: Samples to train on and to choose the best epoch by.
        everything: Every sample taken in so far; the job's once the round is committed. Its metadata says as which
            round, and how far the feed has been read.
        core: Frozen test samples of the first rounds.
        recent: Test samples of the last rounds.
        report: The same, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("plan", job_root):
        report.metadata["display_name"] = "plan_report"  # what the pages of Kubeflow show
        from typing import Literal

        from components.core.cache import cache_folder
        from components.core.job.job import Job
        from components.core.manifest import Manifest, read_withdrawn
        from components.core.parameters import (
            CommonSettings,
            GateSettings,
            RoundPlanSettings,
            RoundTrainSettings,
            SplitSettings,
            read,
        )
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.prepare.class_growth import complete
        from components.prepare.replay import check_test_set, round_manifest, section

        chosen, gate = read(RoundPlanSettings, settings), read(GateSettings, settings)
        epochs = 0 if chosen.force_evaluate else read(RoundTrainSettings, settings).epochs
        purpose: Literal["learn", "train", "evaluate"] = "train" if chosen.force_train else "learn"
        if chosen.force_evaluate:
            purpose = "evaluate"
        job = Job.open(job_root)
        state, _ = job.read()
        known = job.manifest(state, cache_folder(job_root))
        data = round_manifest(
            known and known.without_labels(read_withdrawn(arrivals.path)),
            Manifest.read(arrivals.path),
            round_number=int(arrivals.metadata["round"]),
            seed=read(CommonSettings, settings).seed,
            replay_ratio=chosen.replay_ratio,
            replay_limit=chosen.replay_limit,
            core_rounds=chosen.core_rounds,
            recent_rounds=chosen.recent_rounds,
            min_test_samples=gate.min_samples,
            purpose=purpose,
            **dict(read(SplitSettings, settings)),
        )
        if not chosen.force_evaluate and not gate.force_deploy:
            check_test_set(data, gate.min_samples)
        completed = complete(data, job, state.champion, mode=chosen.fill_unlabelled, min_score=chosen.fill_confidence)
        for artifact, samples in (
            (training, completed.training),
            (everything, data.manifest),
            (core, data.core),
            (recent, data.recent),
        ):
            samples.write(artifact.path)
            artifact.metadata["purpose"] = purpose
            if not chosen.force_evaluate:  # which no poll repeats, so that its failures do not count
                artifact.metadata["round"] = arrivals.metadata["round"]
        # What `deploy` commits it as, so that it needs nothing of `collect`.
        everything.metadata["number"] = arrivals.metadata["round"]
        everything.metadata["cursor"] = arrivals.metadata["cursor"]
        write_page(report.path, "Plan", [section(data, epochs), *completed.sections])
        keep_part(job_root, run_id, "plan.html", report.path)
