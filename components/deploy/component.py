"""Deploy as a KFP component."""

from kfp import dsl

from components import images


@images.small_component
def deploy(
    everything: dsl.Input[dsl.Dataset],
    candidate: dsl.Input[dsl.Model],
    judgement: dsl.Input[dsl.Artifact],
    figures: dsl.Input[dsl.Artifact],
    job_root: str,
    run_id: str,
    page: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> str:
    """Commit the round: bundle first, then pointer, cursor and manifest in one step; and keep the report.

    Args:
        everything: Every sample taken in so far, from `plan`; its metadata says how far the feed has been read.
        candidate: The bundle.
        judgement: From `judge`.
        figures: From `judge`.
        job_root: Where the job is kept.
        run_id: Name of the run, by which a retried step recognises its own work and finds the pages of the others.
        page: The report of the whole round.
        settings: Parameters by name.

    Returns:
        Where the report was kept.
    """
    from components.core.steps import step

    with step("deploy", job_root, everything.metadata.get("round"), settings):
        import json
        import logging
        from datetime import UTC, datetime
        from pathlib import Path

        from components.core.errors import ConflictError, LostRaceError
        from components.core.job.job import Job
        from components.core.parameters import DeploySettings, read
        from components.core.reports.figures import read_figures
        from components.core.reports.page import write_page
        from components.core.reports.parts import read_pages, remove_old_parts
        from components.deploy.canary import CanaryPlan
        from components.deploy.candidate import Candidate
        from components.deploy.deploy import deploy as commit
        from components.deploy.deploy import section
        from components.deploy.garbage import ABANDONED, collect_garbage, remove_leftovers
        from components.deploy.model_registry import register_champion
        from components.ingest.fingerprints import remove_superseded
        from components.report.report import keep

        chosen = read(DeploySettings, settings)
        decided = json.loads(Path(judgement.path).read_text(encoding="utf-8"))
        number = int(everything.metadata["number"])
        try:
            deployed = commit(
                job_root,
                Candidate.of_one(Path(candidate.path)),
                Path(everything.path),
                outcome=decided["outcome"],
                why="; ".join(decided["reasons"]),
                round_number=number,
                run_id=run_id,
                cursor=everything.metadata["cursor"],
                champion=judgement.metadata["champion"] or None,
                rollout_timeout=chosen.rollout_timeout,
                rollout_fraction=chosen.rollout_fraction,
                canary=CanaryPlan(chosen.canary_fraction, chosen.canary_frames, chosen.canary_hours),
            )
        except ConflictError as error:
            raise LostRaceError(str(error)) from error
        logging.info("round %d: %s, the champion is %s", number, deployed.outcome, deployed.champion or "none")
        job = Job.open(job_root)
        state, _ = job.read()
        removed = collect_garbage(job, chosen.keep_versions, state)
        if removed:
            logging.info("removed %d old candidates", len(removed))
        remove_leftovers(job, state)
        # A state that is put back from a copy, and a poll that goes on at the same time, may need what is newer.
        now = datetime.now(UTC)
        remove_superseded(job.store, state.cursor, before=now - ABANDONED)
        remove_old_parts(job.store, now)
        told = register_champion(job, state, chosen, deployed.version, read_figures(figures.path), run_id)
        steps = ("judge", "convert", "train", "plan", "collect")
        sections = [section(deployed), *told, *read_pages(job_root, run_id, steps)]
        title = f"Round {number}"
        write_page(page.path, title, sections)
        return keep(page.path, job_root, title, read_figures(figures.path), run_id)


@images.train_component
def promote(  # noqa: PLR0915 - half of the statements are imports
    manifest: dsl.Input[dsl.Dataset],
    candidate: dsl.Input[dsl.Model],
    conversion: dsl.Input[dsl.Artifact],
    figures: dsl.Input[dsl.Artifact],
    job_root: str,
    run_id: str,
    report: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006
) -> str:
    """Make the model of a single run the champion of its job; where there is a champion already, the gate decides.

    The run counts as a round of the job, so that later rounds know its samples and their splits.

    Args:
        manifest: Samples with splits, from `prepare`; those of the split `test` decide.
        candidate: A bundle.
        conversion: From `convert`; a candidate that could not be converted is not promoted.
        figures: From `evaluate`.
        job_root: Where the job is kept.
        run_id: Name of the run, by which a retried step recognises its own work; the page is kept under it.
        report: The outcome, and both models side by side where there were two, as a page.
        settings: Parameters by name.

    Returns:
        Where the model was kept with the job; empty if it was not.
    """
    from components.core.steps import step

    with step("promote", job_root, settings=settings):
        report.metadata["display_name"] = "promote_report"  # what the pages of Kubeflow show
        import json
        import logging
        from datetime import UTC, datetime
        from pathlib import Path

        from components.core import plugins
        from components.core.bundle import Bundle
        from components.core.cache import cache_folder, version_folder
        from components.core.job.job import Job
        from components.core.manifest import Manifest
        from components.core.parameters import CommonSettings, EvaluateSettings, GateSettings, PromoteSettings, read
        from components.core.reports.figures import read_figures
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.core.tasks.base import open_task
        from components.deploy.deploy import section
        from components.deploy.model_registry import register_champion
        from components.deploy.promote import Verdict, already, commit_run, first, not_asked, not_deployed, same_as
        from components.evaluate.gate_report import sections
        from components.evaluate.verdict import compare_and_judge
        from components.prepare.replay import with_run

        common, chosen = read(CommonSettings, settings), read(PromoteSettings, settings)
        gate = read(GateSettings, settings)
        plugins.load(common.plugins)
        job = Job.open(job_root)
        state, _ = job.read()
        samples, folder = Manifest.read(manifest.path), Path(candidate.path)
        converted = json.loads(Path(conversion.path).read_text(encoding="utf-8"))
        parts = []
        verdict = not_asked(chosen.deploy, converted) or already(state, run_id)
        if verdict is None and state.champion is None:
            kind = open_task(Bundle.read(folder).task).figures
            verdict = first(kind.main_title, read_figures(figures.path)[kind.main], gate)
        elif verdict is None and state.champion:
            champion = version_folder(job_root, "champion", state.champion)
            verdict = same_as(state.champion, job.fetch_bundle(state.champion, champion, state), Bundle.read(folder))
        if verdict is None:
            comparison, judged = compare_and_judge(
                {"candidate": folder, "champion": champion},
                {"test": samples.split("test")},
                converted,
                gate=gate,
                thresholds=read(EvaluateSettings, settings),
                runtime=common.runtime,
                cache_folder=cache_folder(job_root) / "blobs",
                now=datetime.now(UTC),
            )
            verdict, parts = Verdict.of_gate(judged.outcome, judged.reasons), sections(comparison, judged)
        assert verdict
        logging.info("%s", verdict.describe())
        if verdict.outcome is None:
            write_page(report.path, "Promote", [not_deployed(verdict, state), *parts])
            keep_part(job_root, run_id, "promote.html", report.path)
            return ""
        everything = Path(report.path).with_name("samples.parquet")
        number = verdict.round_number or state.round + 1
        with_run(job.manifest(state, cache_folder(job_root)), samples, number).write(everything)
        deployed = commit_run(job, state, folder, everything, verdict, run_id, chosen)
        logging.info("%s: %s; the champion is %s", deployed.outcome, deployed.version, deployed.champion or "none")
        state, _ = job.read()
        told = register_champion(job, state, chosen, deployed.version, read_figures(figures.path), run_id)
        write_page(report.path, "Promote", [section(deployed), *told, *parts])
        keep_part(job_root, run_id, "promote.html", report.path)
        return job.store.uri_of(f"bundles/{deployed.version}")
