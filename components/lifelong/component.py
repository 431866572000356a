"""Lifelong learning as KFP components."""

from typing import List  # noqa: UP035 - KFP knows lists of artifacts by this name

from kfp import dsl

from components import images


@images.train_component
def setup_lifelong(
    feed_url: str,
    job_root: str,
    node_selector: dict,
    step_cpu: str,
    step_memory: str,
    store_secret: str,
    tolerations: list,
    train_cpu: str,
    train_gpu_type: str,
    train_gpus: str,
    train_memory: str,
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Check every parameter of a round of lifelong learning before any work starts.

    Args:
        feed_url: See `collect`.
        job_root: Where the job is kept.
        node_selector: Labels of the nodes that steps may run on.
        step_cpu: CPUs of each step that loads a model.
        step_memory: Memory of each step that loads a model.
        store_secret: Kubernetes secret with the credentials of the store.
        tolerations: Kubernetes tolerations of every step.
        train_cpu: CPUs of training.
        train_gpu_type: Resource name of the GPUs.
        train_gpus: Number of GPUs for training.
        train_memory: Memory of training.
        settings: Parameters by name.
    """
    values = dict(locals())
    from components.core.steps import step

    with step("setup", job_root):
        from components.core import plugins
        from components.core.estimators.base import check_conversion, check_place, estimators
        from components.core.lifelong.plug_points import check_plug_ins
        from components.core.parameters import (
            WORKFLOWS,
            CommonSettings,
            ConvertSettings,
            DataSettings,
            LifelongSettings,
            RoundSettings,
            RoundTrainSettings,
            TrainerSettings,
            read,
        )
        from components.core.runtimes.base import runtimes
        from components.ingest.classes import Classes
        from components.ingest.dataset import formats
        from components.lifelong.lifelong_job import check_job
        from components.lifelong.plan import check_no_force, check_start
        from components.lifelong.serve import read_keep
        from components.setup.cluster import try_trainjob, warn_of_cluster
        from components.setup.setup import check_run

        def data() -> DataSettings:
            return read(DataSettings, settings)

        def train() -> RoundTrainSettings:
            return read(RoundTrainSettings, settings)

        check_run(
            values,
            WORKFLOWS["lifelong-learning"],
            [
                lambda: plugins.load(read(CommonSettings, settings).plugins),
                lambda: runtimes.get(read(CommonSettings, settings).runtime),
                lambda: data().data_format == "auto" or formats.get(data().data_format),
                lambda: Classes(data().classes, data().ignore_classes),
                lambda: check_place(train().estimator, read(TrainerSettings, settings)),
                lambda: check_conversion(train().estimator, read(ConvertSettings, settings).targets),
                lambda: try_trainjob(read(TrainerSettings, settings)),
                lambda: check_plug_ins(read(LifelongSettings, settings), estimators.get(train().estimator).task),
                lambda: read_keep(read(LifelongSettings, settings).keep_conditions),
                lambda: check_no_force(read(RoundSettings, settings).force_evaluate),
                lambda: check_job(job_root),
                lambda: check_start(train()),
            ],
        )
        warn_of_cluster(values)


@images.train_component
def define_tasks(  # noqa: PLR0915 - half of the statements are imports
    arrivals: dsl.Input[dsl.Dataset],
    job_root: str,
    training: dsl.Output[dsl.Dataset],
    everything: dsl.Output[dsl.Dataset],
    tests: dsl.Output[dsl.Dataset],
    recent: dsl.Output[dsl.Dataset],
    tasks: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006
) -> list:
    """Divide the samples into tasks, and decide which models the round trains.

    Args:
        arrivals: New samples, from `collect`.
        job_root: Where the job is kept.
        training: What is new, a replay of what is known, and samples to choose the best epoch by.
        everything: Every sample taken in so far; the job's once the round is committed.
        tests: Every test sample.
        recent: Test samples of the last rounds.
        tasks: The task of each sample and what is trained, as JSON.
        report: The same, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.

    Returns:
        Names of the models to train: `shared`, and tasks.
    """
    from components.core.steps import step

    with step("define_tasks", job_root):
        report.metadata["display_name"] = "define_tasks_report"  # what the pages of Kubeflow show
        import logging
        from collections.abc import Collection
        from contextlib import suppress
        from pathlib import Path

        import polars as pl

        from components.core import plugins
        from components.core.cache import cache_folder, own_folder
        from components.core.errors import NothingToMeasureError
        from components.core.job.job import Job
        from components.core.lifelong.plug_points import make, parameters_of, task_definitions, task_updates
        from components.core.manifest import Manifest, read_withdrawn
        from components.core.parameters import (
            CommonSettings,
            EvaluateSettings,
            GateSettings,
            LifelongSettings,
            RoundSettings,
            RoundTrainSettings,
            SplitSettings,
            read,
        )
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.evaluate.evaluate import evaluate
        from components.evaluate.predictor import open_predictor
        from components.lifelong.lifelong_job import fetch_known
        from components.lifelong.look import look_at
        from components.lifelong.plan import Plan, plan_models
        from components.lifelong.report import planned
        from components.prepare.replay import check_test_set, round_manifest, section

        common, chosen = read(CommonSettings, settings), read(LifelongSettings, settings)
        rounds, gate = read(RoundSettings, settings), read(GateSettings, settings)
        thresholds = read(EvaluateSettings, settings)
        plugins.load(common.plugins)
        cache, job = cache_folder(job_root), Job.open(job_root)
        state, _ = job.read()
        number = int(arrivals.metadata["round"])
        arrived = Manifest.read(arrivals.path)
        before = job.manifest(state, cache)
        data = round_manifest(
            before and before.without_labels(read_withdrawn(arrivals.path)),
            arrived,
            round_number=number,
            seed=common.seed,
            replay_ratio=rounds.replay_ratio,
            replay_limit=rounds.replay_limit,
            core_rounds=rounds.core_rounds,
            recent_rounds=rounds.recent_rounds,
            min_test_samples=gate.min_samples,
            purpose="train" if rounds.force_train else "learn",
            **dict(read(SplitSettings, settings)),
        )
        if not gate.force_deploy:
            check_test_set(data, gate.min_samples)
        known, members = fetch_known(job, state, state.champion, own_folder(job_root) / "members")
        definition = make(task_definitions, chosen.task_definition, chosen.task_parameters)
        labelled = look_at(data.manifest.labelled(), cache / "blobs")
        same = known is not None and known.definition.is_of(chosen.task_definition, chosen.task_parameters)
        learned = definition.fit(labelled, known.definition.state if known and same else {})
        names = definition.assign(labelled, learned)
        assigned = dict(zip(labelled.columns["id"], names, strict=True))

        def score(ids: Collection[str]) -> dict[str, float]:
            """The main figure of every model of the champion on new training samples."""
            new, found = data.manifest.where(pl.col("id").is_in(list(ids))), {}
            for role, folder in members.items():
                predictor = open_predictor(folder, nms_threshold=thresholds.nms_threshold, runtime=common.runtime)
                with suppress(NothingToMeasureError):
                    found[role] = evaluate(
                        new, predictor, split="train", confidence_threshold=thresholds.confidence_threshold,
                        cache_folder=cache / "blobs",
                    ).measured.flat[predictor.task.figures.main]  # fmt: skip
            return found

        plan = Plan(
            round=number,
            champion=state.champion,
            tasks=assigned,
            definition=learned,
            shared_round=known.shared_round if known else 0,
            models=plan_models(
                data.manifest,
                assigned,
                (data.training if rounds.force_train else arrived).labelled().table["id"].to_list(),
                round_number=number,
                known=known,
                members=members,
                min_task_samples=chosen.min_task_samples,
                update=make(task_updates, chosen.task_update, parameters_of(chosen, "task_update")),
                score=score,
            ),
        )
        logging.info("%s", "; ".join(f"{one.name}: {one.action} ({one.why})" for one in plan.models))
        for artifact, samples in (
            (training, data.training),
            (everything, data.manifest),
            (tests, data.manifest.split("test").labelled()),
            (recent, data.recent),
        ):
            samples.write(artifact.path)
            artifact.metadata["round"] = number
        everything.metadata["cursor"] = arrivals.metadata["cursor"]  # for `deploy-tasks`
        Path(tasks.path).write_text(plan.model_dump_json(indent=1), encoding="utf-8")
        write_page(report.path, "Tasks", [planned(plan), section(data, read(RoundTrainSettings, settings).epochs)])
        keep_part(job_root, run_id, "define-tasks.html", report.path)
        return plan.to_train()


@images.train_component
def train_task(
    name: str,
    training: dsl.Input[dsl.Dataset],
    everything: dsl.Input[dsl.Dataset],
    tasks: dsl.Input[dsl.Artifact],
    job_root: str,
    model: dsl.Output[dsl.Model],
    samples: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006
) -> None:
    """Train the model of one task, by itself; a killed run resumes from its last epoch.

    Args:
        name: Of the task, or `shared`.
        training: From `define-tasks`.
        everything: From `define-tasks`.
        tasks: From `define-tasks`.
        job_root: Where the job is kept; checkpoints go there after each epoch.
        model: The model as a bundle; its metadata names the task.
        samples: What it is converted with: the samples of its task, or of all where it has few.
        report: Curves and sample predictions, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step(f"train_{name}", job_root, everything.metadata.get("round"), settings):
        report.metadata["display_name"] = f"train_{name}_report"  # what the pages of Kubeflow show
        from pathlib import Path

        from components.core.manifest import Manifest
        from components.core.parameters import (
            CommonSettings,
            EvaluateSettings,
            RoundTrainSettings,
            TrainerSettings,
            read,
        )
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.lifelong.plan import Plan, base_of, samples_to_convert, samples_to_train
        from components.train.place import train_at

        common, chosen = read(CommonSettings, settings), read(RoundTrainSettings, settings)
        plan = Plan.model_validate_json(Path(tasks.path).read_bytes())
        every = Manifest.read(everything.path)
        trained = train_at(
            read(TrainerSettings, settings),
            samples_to_train(every, Manifest.read(training.path), plan, name),
            Path(model.path),
            job_root=job_root,
            seed=common.seed,
            plugin_modules=common.plugins,
            round_number=plan.round,
            about={"task": name},
            **(dict(chosen) | {"base_model": base_of(plan, name, chosen.base_model, chosen.initial_model)}),
            **dict(read(EvaluateSettings, settings)),
        )
        model.metadata["task"] = name
        samples_to_convert(every, plan, name).write(samples.path)
        samples.metadata["round"] = plan.round
        write_page(report.path, f"Train {name}", trained.sections)
        keep_part(job_root, run_id, f"train-{name}.html", report.path)


@images.train_component
def evaluate_tasks(  # noqa: PLR0915 - half of the statements are imports
    models: dsl.Input[List[dsl.Model]],  # noqa: UP006
    conversions: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    everything: dsl.Input[dsl.Dataset],
    tests: dsl.Input[dsl.Dataset],
    recent: dsl.Input[dsl.Dataset],
    tasks: dsl.Input[dsl.Artifact],
    job_root: str,
    judgement: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006
) -> None:
    """Evaluate every model on every task, choose the model of each task, and judge the knowledge base as one.

    Args:
        models: From `convert`, one of each task.
        conversions: From `convert`, one of each task; a model that could not be converted does not answer.
        everything: From `define-tasks`.
        tests: Every test sample.
        recent: Test samples of the last rounds.
        tasks: From `define-tasks`.
        job_root: Where the job is kept.
        judgement: Outcome with every reason, the routing and whose models answer, as JSON.
        figures: Figures of the knowledge base, how they differ from the champion's, and what was forgotten, as JSON.
        metrics: The ten of them that matter.
        classification: What the knowledge base takes each class for, and what it finds at each confidence.
        report: The matrix of models and tasks, and the verdict, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("evaluate_tasks", job_root, everything.metadata.get("round"), settings):
        report.metadata["display_name"] = "evaluate_tasks_report"  # what the pages of Kubeflow show
        import json
        import logging
        from collections.abc import Callable, Mapping, Sequence
        from datetime import UTC, datetime
        from pathlib import Path
        from typing import Any

        from components.core import plugins
        from components.core.cache import cache_folder, own_folder
        from components.core.job.job import Job
        from components.core.lifelong.knowledge_base import SHARED, KnowledgeBase, Route
        from components.core.lifelong.plug_points import make, parameters_of, task_relations
        from components.core.manifest import Manifest
        from components.core.parameters import CommonSettings, EvaluateSettings, GateSettings, LifelongSettings, read
        from components.core.reports.figures import key_figures, log_classification, log_figures, write_figures
        from components.core.reports.page import Section, note, write_page
        from components.core.reports.parts import keep_part
        from components.core.rules.conditions import Condition, Outcome
        from components.core.tasks.base import Measurement
        from components.evaluate.compare import compare_measured
        from components.evaluate.evaluate import evaluate
        from components.evaluate.gate import Check, conversion_check
        from components.evaluate.gate_report import sections as gate_sections
        from components.evaluate.predictor import open_predictor, together
        from components.evaluate.verdict import judge_comparison
        from components.lifelong.learn import learn, too_few_to_calibrate, with_models, with_scores
        from components.lifelong.lifelong_job import fetch_known
        from components.lifelong.look import look_at
        from components.lifelong.plan import Plan
        from components.lifelong.report import figures as figures_of
        from components.lifelong.report import recognition, sections
        from components.lifelong.serve import (
            BEFORE,
            Matrix,
            Served,
            choose_models,
            forgotten,
            places_to_answer,
            read_keep,
            unless_shared_is_better,
        )

        common, chosen = read(CommonSettings, settings), read(LifelongSettings, settings)
        thresholds, gate = read(EvaluateSettings, settings), read(GateSettings, settings)
        plugins.load(common.plugins)
        plan = Plan.model_validate_json(Path(tasks.path).read_bytes())
        blobs, job = cache_folder(job_root) / "blobs", Job.open(job_root)
        state, _ = job.read()
        known, before = fetch_known(job, state, plan.champion, own_folder(job_root) / "members")
        before_routes: list[Route] = []
        unconverted = {
            one.metadata["task"]: "; ".join(json.loads(Path(one.path).read_text(encoding="utf-8"))["reasons"])
            for one in conversions
            if one.metadata["outcome"] == "failed"
        }
        stuck = SHARED in unconverted and SHARED not in before  # a knowledge base is nothing without it
        folders = {
            one.metadata["task"]: Path(one.path)
            for one in models
            if one.metadata["task"] not in unconverted or (stuck and one.metadata["task"] == SHARED)
        }
        folders |= {BEFORE + role: folder for role, folder in before.items()}
        test_samples = Manifest.read(tests.path)
        test = look_at(test_samples, blobs)

        def measure(labels: Sequence[str], combine: Callable[[Sequence[Any]], Any]) -> Measurement[Any]:
            """What a model finds in the test samples, or several as one."""
            predictors = [
                open_predictor(folders[label], nms_threshold=thresholds.nms_threshold, runtime=common.runtime)
                for label in labels
            ]
            return evaluate(
                test_samples,
                predictors[0] if len(predictors) == 1 else together(predictors, combine),
                confidence_threshold=thresholds.confidence_threshold,
                cache_folder=blobs,
            ).measured

        measured = {label: measure([label], lambda answers: answers[0]) for label in folders}
        ids = next(iter(measured.values())).samples.table["id"].to_list()
        test = test.with_ids(ids)
        places = plan.places(ids)
        matrix = Matrix.of(measured, {**places, SHARED: list(range(len(ids)))})
        all_samples = Manifest.read(everything.path)
        learned = learn(plan, all_samples, blobs, known, chosen)
        served: Mapping[str, Served] = choose_models(
            plan,
            matrix.at(places_to_answer(learned.routes(test), matrix.places)),
            keep=read_keep(chosen.keep_conditions),
            max_forgetting=chosen.max_forgetting,
            relation=make(task_relations, chosen.task_relation, parameters_of(chosen, "task_relation")),
            unconverted=unconverted,
        )
        if few := too_few_to_calibrate(plan, all_samples, chosen):
            logging.warning("%s", few)

        def found_by(base: KnowledgeBase, routes: Sequence[Route], label: Callable[[str], str]) -> Measurement[Any]:
            """What a knowledge base finds in the test samples."""
            asked = [tuple(map(label, route.models)) for route in routes]
            several = sorted({labels for labels in asked if len(labels) > 1})
            as_one = {" & ".join(labels): measure(labels, base.integrated) for labels in several}
            return matrix.joined([" & ".join(labels) for labels in asked], as_one)

        def answering(served: Mapping[str, Served]) -> tuple[KnowledgeBase, Sequence[Route], Measurement[Any]]:
            """The knowledge base with the models that were chosen, where it sends the test samples, what it finds."""
            base = with_models(learned, served, plan.round)
            routes, labels = base.routes(test), {one.member: one.label for one in served.values()}
            return base, routes, found_by(base, routes, labels.__getitem__)

        base, routes, found_in_tests = answering(served)
        if chosen.keep_conditions:
            better = unless_shared_is_better(served, matrix, found_in_tests)
            if better is not served:
                served = better
                base, routes, found_in_tests = answering(served)
        used = {one.member: one.label for one in served.values()}
        joined = {"candidate": found_in_tests}
        if known:
            before_routes = known.routes(test)
            joined["champion"] = found_by(known, before_routes, BEFORE.__add__)
        base = with_scores(base, plan.round, joined, places)
        lost = forgotten(base.rounds[-1], known.tasks if known else (), chosen.max_forgetting)
        bound = f"no task loses more than {chosen.max_forgetting:g}"
        remembers = Check(bound, Outcome.NOT_MET if lost else Outcome.MET, "; ".join(lost) or "none did")
        further = [remembers]
        if stuck:
            further.append(conversion_check({"outcome": "failed", "reasons": [unconverted[SHARED]]}))
        conditions = Condition.parse(gate.gate_conditions) if gate.gate_conditions else None
        comparison = compare_measured(
            joined,
            {"recent": Manifest.read(recent.path)},
            named=conditions.metrics() if conditions else (),
        )
        decided = judge_comparison(comparison, gate, further=further, now=datetime.now(UTC))
        logging.info("%s", decided.describe())
        found = figures_of(base, routes) | recognition(known, before_routes, places)
        out = decided.to_dict() | {"routing": base.model_dump(mode="json"), "members": used}
        Path(judgement.path).write_text(json.dumps(out, indent=1), encoding="utf-8")
        judgement.metadata["champion"] = plan.champion or ""
        title = comparison.figures.main_title
        parts = [*gate_sections(comparison, decided), *sections(base, served, matrix, routes, found, title)]
        if few:
            parts.append(Section("Unseen images", note(few, "warn")))
        write_page(report.path, "Evaluate tasks", parts)
        keep_part(job_root, run_id, "evaluate-tasks.html", report.path)
        answers, task = joined["candidate"], comparison.task
        values = {**comparison.as_flat(), **found}
        write_figures(figures.path, values)
        log_figures(metrics, key_figures(values, task.figures, first=found))
        log_classification(classification, task.confusion(answers), task.confidence_curve(answers))


@images.small_component
def deploy_tasks(  # noqa: PLR0915 - half of the statements are imports
    everything: dsl.Input[dsl.Dataset],
    models: dsl.Input[List[dsl.Model]],  # noqa: UP006
    judgement: dsl.Input[dsl.Artifact],
    figures: dsl.Input[dsl.Artifact],
    job_root: str,
    run_id: str,
    page: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006
) -> str:
    """Publish the models of all tasks as one release, and commit the round: pointer, cursor and manifest in one step.

    Args:
        everything: Every sample taken in so far, from `define-tasks`; its metadata says how far the feed has been read.
        models: From `convert`, one of each task.
        judgement: From `evaluate-tasks`.
        figures: From `evaluate-tasks`.
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

        from components.core.cache import own_folder
        from components.core.errors import ConflictError, LostRaceError
        from components.core.job.job import Job
        from components.core.parameters import ConvertSettings, DeploySettings, read
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
        champion = judgement.metadata["champion"]
        number = int(everything.metadata["round"])
        job = Job.open(job_root)
        state, _ = job.read()
        trained = {one.metadata["task"]: Path(one.path) for one in models}
        members = {}
        for role, label in decided["members"].items():
            if label in trained:
                members[role] = trained[label]
            else:
                kept = job.registry.release(champion, state.vouched.get(champion)).members[role]
                members[role] = own_folder(job_root) / "members" / kept.version
                job.registry.fetch(kept.version, members[role], kept.sha256)
        try:
            deployed = commit(
                job_root,
                Candidate(members, decided["routing"]),
                Path(everything.path),
                outcome=decided["outcome"],
                why="; ".join(decided["reasons"]),
                round_number=number,
                run_id=run_id,
                cursor=everything.metadata["cursor"],
                champion=champion or None,
                rollout_timeout=chosen.rollout_timeout,
                rollout_fraction=chosen.rollout_fraction,
                canary=CanaryPlan(chosen.canary_fraction, chosen.canary_frames, chosen.canary_hours),
            )
        except ConflictError as error:
            raise LostRaceError(str(error)) from error
        logging.info("round %d: %s, the champion is %s", number, deployed.outcome, deployed.champion or "none")
        state, _ = job.read()
        collect_garbage(job, chosen.keep_versions, state)
        remove_leftovers(job, state)
        now = datetime.now(UTC)
        remove_superseded(job.store, state.cursor, before=now - ABANDONED)
        remove_old_parts(job.store, now)
        converted = [f"convert-{name}" for name in trained] if read(ConvertSettings, settings).targets else []
        steps = ["evaluate-tasks", "define-tasks", *(f"train-{name}" for name in trained), *converted, "collect"]
        told = register_champion(job, state, chosen, deployed.version, read_figures(figures.path), run_id)
        sections = [section(deployed), *told, *read_pages(job_root, run_id, steps)]
        title = f"Round {number}"
        write_page(page.path, title, sections)
        return keep(page.path, job_root, title, read_figures(figures.path), run_id)


@images.train_component
def infer_tasks(
    arrivals: dsl.Input[dsl.Dataset],
    job_root: str,
    results: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006
) -> None:
    """Let the knowledge base look at the round's images without labels; unseen ones are asked to be labelled.

    Args:
        arrivals: New samples, from `collect`.
        job_root: Where the job is kept; the list of unseen images goes to `to-label/`.
        results: Of each image its task, whether it is unseen and why, and what was found (JSON lines, in input order);
            then of those that were unseen in an earlier round and are known now.
        report: The same, as a page.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("infer_tasks", job_root):
        report.metadata["display_name"] = "infer_tasks_report"  # what the pages of Kubeflow show
        import json
        import logging
        from pathlib import Path

        from components.core import plugins
        from components.core.cache import cache_folder
        from components.core.job.job import Job
        from components.core.job.label_requests import write_list
        from components.core.lifelong.plug_points import make, parameters_of, re_recognitions
        from components.core.manifest import LABELLED, Manifest
        from components.core.parameters import CommonSettings, LifelongSettings, read
        from components.core.reports.page import write_page
        from components.lifelong.infer import infer
        from components.lifelong.report import inferred

        common, chosen = read(CommonSettings, settings), read(LifelongSettings, settings)
        plugins.load(common.plugins)
        job, cache = Job.open(job_root), cache_folder(job_root)
        state, _ = job.read()
        new = Manifest.read(arrivals.path).where(~LABELLED)
        again = make(re_recognitions, chosen.re_recognition, parameters_of(chosen, "re_recognition"))
        found = infer(job, state, new, cache, common.runtime, chosen.unseen_budget, again)
        lines = [json.dumps(line) for line in found.lines]
        Path(results.path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if found.requests and found.requests.images:
            logging.info("the list of unseen images is %s", write_list(job.store, found.requests))
        asked = len(found.requests.images) if found.requests else 0
        write_page(report.path, "New images", [inferred(found, asked)])
