"""Deploy as a KFP component."""

from kfp import dsl

from components import images


@images.small_component
def deploy(
    arrivals: dsl.Input[dsl.Dataset],
    everything: dsl.Input[dsl.Dataset],
    candidate: dsl.Input[dsl.Model],
    judgement: dsl.Input[dsl.Artifact],
    metrics: dsl.Input[dsl.Metrics],
    collect_report: dsl.Input[dsl.HTML],
    plan_report: dsl.Input[dsl.HTML],
    train_report: dsl.Input[dsl.HTML],
    convert_report: dsl.Input[dsl.HTML],
    judge_report: dsl.Input[dsl.HTML],
    job_root: str,
    run_id: str,
    page: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> str:
    """Commit the round: bundle first, then pointer, cursor and manifest in one step; and keep the report.

    Args:
        arrivals: New samples, from `collect`, whose metadata says how far the feed has been read.
        everything: Every sample taken in so far, from `plan`.
        candidate: The bundle.
        judgement: From `judge`.
        metrics: From `judge`.
        collect_report: Page of `collect`.
        plan_report: Page of `plan`.
        train_report: Page of `train`.
        convert_report: Page of `convert`.
        judge_report: Page of `judge`.
        job_root: Where the job is kept.
        run_id: Name of the run, by which a retried step recognises its own work.
        page: The report of the whole round.
        settings: Parameters by name.

    Returns:
        Where the report was kept.
    """
    from components.core.steps import step

    with step("deploy", job_root, everything.metadata.get("round"), settings):
        import json
        import logging
        from pathlib import Path

        from components.core.errors import ConflictError, LostRaceError
        from components.core.job.job import Job
        from components.core.parameters import DeploySettings, read
        from components.core.reports.page import read_sections, write_page
        from components.deploy.canary import CanaryPlan
        from components.deploy.candidate import Candidate
        from components.deploy.deploy import deploy as commit
        from components.deploy.deploy import section
        from components.deploy.garbage import collect_garbage, remove_leftovers
        from components.report.report import keep

        chosen = read(DeploySettings, settings)
        decided = json.loads(Path(judgement.path).read_text(encoding="utf-8"))
        number = int(arrivals.metadata["round"])
        try:
            deployed = commit(
                job_root,
                Candidate.of_one(Path(candidate.path)),
                Path(everything.path),
                outcome=decided["outcome"],
                why="; ".join(decided["reasons"]),
                round_number=number,
                run_id=run_id,
                cursor=arrivals.metadata["cursor"],
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
        parts = [judge_report, convert_report, train_report, plan_report, collect_report]
        sections = [section(deployed), *(part for report in parts for part in read_sections(report.path))]
        title = f"Round {number}"
        write_page(page.path, title, sections)
        return keep(page.path, job_root, title, dict(metrics.metadata))
