"""Trigger as a KFP component."""

from kfp import dsl

from components import images


@images.small_component
def trigger(
    feed_url: str,
    job_root: str,
    report: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> str:
    """Look at what is new in the feed and say whether a round is to run; one cheap task, no torch.

    What the last rounds left open is settled here: a candidate that waits for its window is deployed once the window is
    open, a canary is promoted or withdrawn, and a champion that the workers cannot run is taken back.

    Args:
        feed_url: Where new samples arrive.
        job_root: Where the job is kept.
        report: What is new, and the current and required value of each condition, as a page.
        settings: Parameters by name.

    Returns:
        `RUN` or `WAIT`.
    """
    from components.core.steps import step

    with step("trigger", job_root):
        report.metadata["display_name"] = "trigger_report"  # what the pages of Kubeflow show
        import logging
        from datetime import UTC, datetime

        from components.core import plugins
        from components.core.cache import cache_folder
        from components.core.errors import InputError
        from components.core.job.failures import parameters_key, read_failures
        from components.core.job.job import Job
        from components.core.parameters import (
            CommonSettings,
            DataSettings,
            DeploySettings,
            GateSettings,
            LabelStudioSettings,
            RoundSettings,
            SplitSettings,
            TriggerSettings,
            check_settings,
            read,
        )
        from components.core.reports.page import write_page
        from components.core.rules.window import Window
        from components.deploy.model_registry import register_champion
        from components.deploy.pointer import publish_pointer
        from components.deploy.settle import settle
        from components.ingest.answers import fetch_answers
        from components.ingest.feed import take_new
        from components.prepare.splits import what_lacks
        from components.trigger.report import sections
        from components.trigger.trigger import asks_for_last_round, compares_with_known, decide

        check_settings(settings)  # those of the steps of a round too, which may start days from now
        data, chosen = read(DataSettings, settings), read(TriggerSettings, settings)
        gate, forced = read(GateSettings, settings), read(RoundSettings, settings)
        rollout = read(DeploySettings, settings)
        common = read(CommonSettings, settings)
        plugins.load(common.plugins)
        now = datetime.now(UTC)
        job = Job.open(job_root)
        waits = bool(gate.deploy_window) and not gate.force_deploy
        window = Window.parse(gate.deploy_window) if waits else None
        state = settle(job, window=window, now=now, fraction=rollout.rollout_fraction)
        if state.history and state.history[-1].at >= now:  # a candidate that waited has become the champion just now
            register_champion(job, state, rollout)
        answers = fetch_answers(job.store, **read(LabelStudioSettings, settings).model_dump(exclude={"label_queue"}))
        arrivals = take_new(feed_url, job_root, **dict(data), state=state, answers=answers)
        if arrivals.complete:  # once an hour in a bucket: are the files of the champion there?
            publish_pointer(job, state)
        timed = asks_for_last_round(chosen.trigger_conditions)
        last_round = job.store.stat(state.manifest) if timed and state.manifest else None
        compares = compares_with_known(chosen.trigger_conditions)
        known = job.manifest(state, cache_folder(job_root)) if compares or state.champion is None else None
        lacks = what_lacks(
            arrivals.manifest,
            known,
            lambda: job.manifest(state, cache_folder(job_root)),
            gate_needs_tests=state.champion is None and not gate.force_deploy,
            min_test_samples=gate.min_samples,
            seed=common.seed,
            **dict(read(SplitSettings, settings)),
        )
        decision = decide(
            state,
            arrivals,
            now=now,
            window=chosen.trigger_window,
            conditions=chosen.trigger_conditions,
            known=known if compares else None,
            round_at=last_round.modified if last_round else None,
            max_rounds=chosen.max_rounds,
            failures=lambda: read_failures(job.store),
            parameters=parameters_key(settings),
            lacks=lacks,
            force=forced.force_train or forced.force_evaluate,
        )
        write_page(report.path, "Trigger", sections(arrivals, decision))
        if decision.outcome == "error":
            raise InputError("; ".join(decision.reasons))
        logging.info("%s", decision.describe())
        return "RUN" if decision.outcome == "run" else "WAIT"
