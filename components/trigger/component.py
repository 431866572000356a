"""Trigger as a KFP component."""

from kfp import dsl

from components import images


@images.small_component
def trigger(
    feed_url: str,
    job_root: str,
    report: dsl.Output[dsl.HTML],
    data_path: str = "",
    data_format: str = "auto",
    classes: str = "",
    ignore_classes: str = "",
    max_bad_fraction: float = 0.1,
    max_files: int = 1000000,
    max_unpacked_gb: float = 100.0,
    max_compression_ratio: float = 200.0,
    trigger_window: dict = {},  # noqa: B006 - KFP takes the default as a value
    trigger_conditions: list = ["num_of_samples >= 50"],  # noqa: B006
    max_rounds: int = 0,
    deploy_window: dict = {},  # noqa: B006
    fleet_fraction: float = 0.95,
    force_train: bool = False,
    force_evaluate: bool = False,
    force_deploy: bool = False,
    plugins: str = "",
) -> str:
    """Look at what is new in the feed and say whether a round is to run; one cheap task, no torch.

    What the last rounds left open is settled here: a candidate that waits for its window is deployed once the window is
    open, one on trial is promoted or withdrawn, and a champion that the workers cannot run is taken back.

    Args:
        feed_url: Where new samples arrive; see `ingest` for what can be read.
        job_root: Where the job's state lies.
        report: What is new, and have and need of each condition, as a page.
        data_path: See `ingest`.
        data_format: See `ingest`.
        classes: See `ingest`.
        ignore_classes: See `ingest`.
        max_bad_fraction: See `ingest`.
        max_files: See `ingest`.
        max_unpacked_gb: See `ingest`.
        max_compression_ratio: See `ingest`.
        trigger_window: When rounds may run: `{"start": "22:00", "end": "06:00", "timezone": "Europe/Berlin",
            "weekdays": "mon-fri"}`; empty for always.
        trigger_conditions: What must hold, such as `["num_of_samples >= 50", {"any": [...]}]`; all of them.
        max_rounds: How many rounds the job may have; 0 for no end.
        deploy_window: When a model may be deployed, in the same form.
        fleet_fraction: Share of the workers, 0 to 1, that must be able to run the champion.
        force_train: Run a round now, whatever the conditions and the window say.
        force_evaluate: The same, for a round that judges the last candidate again.
        force_deploy: Deploy a candidate that waits for its window now.
        plugins: Modules to import first, separated by commas.

    Returns:
        `RUN` or `WAIT`.
    """
    from components.core.steps import step

    with step("trigger"):
        import logging
        from datetime import UTC, datetime

        from components.core import plugins as registry
        from components.core.cache import cache_folder
        from components.core.errors import InputError
        from components.core.job.failures import read_failures
        from components.core.job.job import Job
        from components.core.reports.page import write_page
        from components.core.rules.window import Window
        from components.deploy.canary import settle_canary
        from components.deploy.deploy import promote_pending
        from components.deploy.pointer import publish_pointer
        from components.deploy.workers import roll_back_failed
        from components.ingest.feed import take_new
        from components.trigger.report import sections
        from components.trigger.trigger import compares_with_known, decide

        registry.load(plugins)
        now = datetime.now(UTC)
        job = Job.open(job_root)
        waits = bool(deploy_window) and not force_deploy
        promote_pending(job_root, window=Window.parse(deploy_window) if waits else None, now=now)
        settle_canary(job, now)
        roll_back_failed(job, fleet_fraction)
        publish_pointer(job)  # a run that was killed after its commit may not have
        arrivals = take_new(
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
        )
        state, _ = job.read()
        last_round = job.store.stat(state.manifest) if state.manifest else None
        decision = decide(
            state,
            arrivals,
            now=now,
            window=trigger_window,
            conditions=trigger_conditions,
            known=job.manifest(state, cache_folder(job_root)) if compares_with_known(trigger_conditions) else None,
            round_at=last_round.modified if last_round else None,
            max_rounds=int(max_rounds),
            failures=read_failures(job.store),
            force=force_train or force_evaluate,
        )
        write_page(report.path, "Trigger", sections(arrivals, decision))
        if decision.outcome == "error":
            raise InputError(decision.describe())
        logging.info("%s", decision.describe())
        return "RUN" if decision.outcome == "run" else "WAIT"
