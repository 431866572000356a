"""Joint inference as KFP components."""

from kfp import dsl

from components import images


@images.train_component
def setup_joint(
    data_url: str,
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
    cloud_image: str,
    edge_image: str,
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Check every parameter of `joint-inference` before any work starts.

    Args:
        data_url: See `ingest`.
        job_root: Where the job is kept.
        node_selector: Labels of the nodes that steps may run on.
        step_cpu: CPUs of each step that loads a model.
        step_memory: Memory of each step that loads a model.
        store_secret: Kubernetes secret with the credentials of the store.
        tolerations: Kubernetes tolerations of the training steps.
        train_cpu: CPUs of training.
        train_gpu_type: Resource name of the GPUs.
        train_gpus: Number of GPUs for training.
        train_memory: Memory of training.
        cloud_image: Image of the cloud server, if the settings name none.
        edge_image: Image of the edge worker, if the settings name none.
        settings: Parameters by name.
    """
    values = dict(locals())
    del values["cloud_image"], values["edge_image"]
    from components.core.steps import step

    with step("setup", job_root):
        from components.core import plugins
        from components.core.estimators.base import check_conversion, check_place, check_training
        from components.core.parameters import (
            WORKFLOWS,
            CommonSettings,
            ConvertSettings,
            DataSettings,
            DeploySettings,
            JointSettings,
            ServingSettings,
            TrainerSettings,
            TrainSettings,
            read,
        )
        from components.core.runtimes.base import runtimes
        from components.ingest.classes import Classes
        from components.ingest.dataset import formats
        from components.joint.calibrate import goals_of, miners_of
        from components.joint.pair_job import check_job
        from components.rollout.manifests import Images
        from components.rollout.serve import check as check_serving
        from components.setup.cluster import try_trainjob, warn_of_cluster
        from components.setup.setup import check_run

        def common() -> CommonSettings:
            return read(CommonSettings, settings)

        def data() -> DataSettings:
            return read(DataSettings, settings)

        def train() -> TrainSettings:
            return read(TrainSettings, settings)

        def joint() -> JointSettings:
            return read(JointSettings, settings)

        check_run(
            values,
            WORKFLOWS["joint-inference"],
            [
                lambda: plugins.load(common().plugins),
                lambda: runtimes.get(common().runtime),
                lambda: data().data_format == "auto" or formats.get(data().data_format),
                lambda: Classes(data().classes, data().ignore_classes),
                lambda: check_place(train().estimator, read(TrainerSettings, settings)),
                lambda: check_conversion(train().estimator, read(ConvertSettings, settings).targets),
                lambda: try_trainjob(read(TrainerSettings, settings)),
                lambda: check_training(
                    train().estimator, train().base_model, train().estimator_options, train().epochs
                ),
                lambda: check_training(train().estimator, joint().big_model, train().estimator_options, train().epochs),
                lambda: goals_of(joint()),
                lambda: miners_of(joint()),
                lambda: check_job(job_root),
                lambda: check_serving(
                    job_root,
                    read(ServingSettings, settings),
                    Images(cloud_image, edge_image),
                    store_secret,
                    read(DeploySettings, settings).rollout_fraction,
                ),
            ],
        )
        warn_of_cluster(values)


@images.train_component
def train_big(
    manifest: dsl.Input[dsl.Dataset],
    job_root: str,
    model: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006
) -> None:
    """Train the big model of joint inference, as `train` does the little one; a killed run resumes.

    Args:
        manifest: Samples with splits, from `prepare`.
        job_root: Where the job is kept; checkpoints go there after each epoch.
        model: The big model as a bundle.
        report: Curves and sample predictions, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("train_big", job_root):
        report.metadata["display_name"] = "train_big_report"  # what the pages of Kubeflow show
        from pathlib import Path

        from components.core.manifest import Manifest
        from components.core.parameters import (
            CommonSettings,
            EvaluateSettings,
            JointSettings,
            TrainerSettings,
            TrainSettings,
            read,
        )
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.train.place import train_at

        common, joint = read(CommonSettings, settings), read(JointSettings, settings)
        chosen = dict(read(TrainSettings, settings))
        trained = train_at(
            read(TrainerSettings, settings),
            Manifest.read(manifest.path),
            Path(model.path),
            job_root=job_root,
            seed=common.seed,
            plugin_modules=common.plugins,
            round_number=None,
            **(chosen | {"base_model": joint.big_model, "image_size": joint.big_image_size}),
            **dict(read(EvaluateSettings, settings)),
        )
        write_page(report.path, "Train the big model", trained.sections)
        keep_part(job_root, run_id, "train-big.html", report.path)


@images.train_component
def calibrate(  # noqa: PLR0915 - half of the statements are imports
    manifest: dsl.Input[dsl.Dataset],
    little: dsl.Input[dsl.Model],
    big: dsl.Input[dsl.Model],
    conversion: dsl.Input[dsl.Artifact],
    job_root: str,
    judgement: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006
) -> None:
    """Choose which frames go to the cloud, so that what was asked for holds, and measure both models as one.

    Args:
        manifest: Samples with splits; `val` calibrates, `test` measures.
        little: The bundle for the edge.
        big: The bundle for the cloud.
        conversion: From `convert`; a little model that could not be converted is not deployed.
        job_root: Where the job is kept.
        judgement: Outcome (promoted or rejected) with every reason, and the routing between the two, as JSON.
        figures: mAP50 of joint inference and of both models, frames and bytes sent, recall of what the cloud finds, as
            JSON.
        metrics: The same.
        classification: What joint inference takes each class for, and what it finds at each confidence.
        report: Edge, cloud, joint and oracle side by side, and the curve of every miner, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("calibrate", job_root):
        report.metadata["display_name"] = "calibrate_report"  # what the pages of Kubeflow show
        import json
        import logging
        from pathlib import Path

        from components.core import plugins
        from components.core.cache import cache_folder
        from components.core.job.job import Job
        from components.core.manifest import Manifest
        from components.core.metrics.confusion import confidence_curve
        from components.core.parameters import CommonSettings, EvaluateSettings, JointSettings, read
        from components.core.reports.figures import log_classification, log_figures, write_figures
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.evaluate.evaluate import evaluate
        from components.evaluate.predictor import Predictor, open_predictor
        from components.joint.calibrate import calibrate as choose
        from components.joint.calibrate import goals_of, miners_of
        from components.joint.cascade import Link, Pair
        from components.joint.gate import judge
        from components.joint.measure import pair_of, time_of
        from components.joint.pair_job import fetch_champion
        from components.joint.report import figures as figures_of
        from components.joint.report import sections, tested

        common, thresholds = read(CommonSettings, settings), read(EvaluateSettings, settings)
        joint = read(JointSettings, settings)
        plugins.load(common.plugins)
        blobs = cache_folder(job_root) / "blobs"
        samples = Manifest.read(manifest.path)

        def opened(folder: Path) -> Predictor:
            return open_predictor(folder, nms_threshold=thresholds.nms_threshold, runtime=common.runtime)

        def measured(folders: list[Path], split: str) -> Pair:
            """Both models on the samples of a split."""
            edge, cloud = (
                evaluate(
                    samples,
                    opened(folder),
                    split=split,
                    confidence_threshold=thresholds.confidence_threshold,
                    cache_folder=blobs,
                ).measured
                for folder in folders
            )
            return pair_of(edge, cloud, blobs)

        candidate = [Path(little.path), Path(big.path)]
        pairs = {split: measured(candidate, split) for split in ("val", "test")}
        miners = miners_of(joint)
        choice = choose(pairs["val"], goals_of(joint), miners)
        points = tested(pairs["test"], choice.routing)
        found = figures_of(points)
        state, _ = (job := Job.open(job_root)).read()
        deployed = fetch_champion(job, state)
        theirs = figures_of(tested(measured(deployed[0], "test"), deployed[1])) if deployed else None
        converted = json.loads(Path(conversion.path).read_text(encoding="utf-8"))
        outcome, reasons = judge(joint.joint_conditions, found, theirs, converted)
        logging.info("%s: %s", outcome, "; ".join(reasons))
        decided = {"outcome": outcome, "reasons": reasons, "routing": choice.routing, "promises": choice.promises,
                   "champion": state.champion or "", "round": state.round + 1}  # fmt: skip
        Path(judgement.path).write_text(json.dumps(decided, indent=2), encoding="utf-8")
        link = Link(
            joint.uplink_mbit,
            joint.round_trip_ms,
            *(time_of(opened(folder).predict, samples.split("val"), blobs) for folder in candidate),
        )
        curves = {name: pairs["val"].curve(pairs["val"].hardness(name)) for name in miners}
        sizes = len(pairs["val"]), len(pairs["test"])
        write_page(
            report.path,
            "Joint inference",
            sections(choice, points, curves, pairs["val"].oracle(), link, sizes, f"{outcome}: {'; '.join(reasons)}"),
        )
        keep_part(job_root, run_id, "calibrate.html", report.path)
        test = pairs["test"]
        sent = test.sent_by(choice.routing["miner"], choice.routing["parameters"])
        write_figures(figures.path, found)
        log_figures(metrics, found)
        log_classification(classification, test.confusion(sent), confidence_curve(test.matches(sent)))


@images.small_component
def deploy_pair(
    manifest: dsl.Input[dsl.Dataset],
    little: dsl.Input[dsl.Model],
    big: dsl.Input[dsl.Model],
    judgement: dsl.Input[dsl.Artifact],
    figures: dsl.Input[dsl.Artifact],
    job_root: str,
    run_id: str,
    page: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006
) -> str:
    """Release both models and the way between them as one: edge workers run `little`, cloud servers `big`.

    Args:
        manifest: Every sample, from `prepare`.
        little: The bundle for the edge.
        big: The bundle for the cloud.
        judgement: From `calibrate`.
        figures: From `calibrate`.
        job_root: Where the job is kept.
        run_id: Name of the run, by which a retried step recognises its own work and finds the pages of the others.
        page: The report of the whole run.
        settings: Parameters by name.

    Returns:
        Where the report was kept.
    """
    from components.core.steps import step

    with step("deploy", job_root):
        import json
        import logging
        from datetime import UTC, datetime
        from pathlib import Path

        from components.core.errors import ConflictError, LostRaceError
        from components.core.job.job import Job
        from components.core.parameters import DeploySettings, read
        from components.core.release import BIG, LITTLE
        from components.core.reports.figures import read_figures
        from components.core.reports.page import write_page
        from components.core.reports.parts import read_pages, remove_old_parts
        from components.deploy.canary import CanaryPlan
        from components.deploy.candidate import Candidate
        from components.deploy.deploy import deploy as commit
        from components.deploy.deploy import section
        from components.deploy.garbage import collect_garbage
        from components.deploy.model_registry import register_champion
        from components.report.report import keep

        chosen = read(DeploySettings, settings)
        decided = json.loads(Path(judgement.path).read_text(encoding="utf-8"))
        job = Job.open(job_root)
        state, _ = job.read()
        try:
            deployed = commit(
                job_root,
                Candidate({LITTLE: Path(little.path), BIG: Path(big.path)}, decided["routing"]),
                Path(manifest.path),
                outcome=decided["outcome"],
                why="; ".join(decided["reasons"]),
                round_number=decided["round"],
                run_id=run_id,
                cursor=state.cursor,
                champion=decided["champion"] or None,
                rollout_timeout=chosen.rollout_timeout,
                rollout_fraction=chosen.rollout_fraction,
                canary=CanaryPlan(chosen.canary_fraction, chosen.canary_frames, chosen.canary_hours),
            )
        except ConflictError as error:
            raise LostRaceError(str(error)) from error
        logging.info("%s, the champion is %s", deployed.outcome, deployed.champion or "none")
        state, _ = job.read()
        collect_garbage(job, chosen.keep_versions, state)
        told = register_champion(job, state, chosen, deployed.version, read_figures(figures.path), run_id)
        remove_old_parts(job.store, datetime.now(UTC))
        steps = ("calibrate", "convert", "train-big", "train", "prepare", "ingest")
        sections = [section(deployed), *told, *read_pages(job_root, run_id, steps)]
        write_page(page.path, "Joint inference", sections)
        return keep(page.path, job_root, "Joint inference", read_figures(figures.path), run_id)
