"""Train as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def train(
    manifest: dsl.Input[dsl.Dataset],
    job_root: str,
    model: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    run_id: str = "",
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Train a candidate model; a killed run resumes from its last epoch.

    With `trainer=trainjob` a TrainJob of Kubeflow Trainer does it, and the step waits for its result. With
    `force_evaluate` nothing is trained, and the candidate of the last round is evaluated again.

    Args:
        manifest: Samples with splits, from `prepare` or `plan`.
        job_root: Where the job is kept; checkpoints go there after each epoch.
        model: The candidate as a bundle: `model.pt`, `model.onnx`, `model.json`.
        report: Curves and sample predictions, as a page.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    number = manifest.metadata.get("round")
    with step("train", job_root, number, settings):
        report.metadata["display_name"] = "train_report"  # what the pages of Kubeflow show
        from pathlib import Path

        from components.core.manifest import Manifest
        from components.core.parameters import (
            CommonSettings,
            EvaluateSettings,
            RoundTrainSettings,
            TrainerSettings,
            TrainSettings,
            read,
        )
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part
        from components.train.candidate import last_candidate
        from components.train.place import train_at

        common = read(CommonSettings, settings)
        purpose = manifest.metadata.get("purpose")  # which `plan` writes for a round
        chosen = read(RoundTrainSettings if purpose else TrainSettings, settings)
        thresholds = read(EvaluateSettings, settings)
        trained = (
            last_candidate(job_root, Path(model.path), **dict(thresholds))
            if purpose == "evaluate"
            else train_at(
                read(TrainerSettings, settings),
                Manifest.read(manifest.path),
                Path(model.path),
                job_root=job_root,
                seed=common.seed,
                plugin_modules=common.plugins,
                round_number=None if number is None else int(number),
                **dict(chosen),
                **dict(thresholds),
            )
        )
        write_page(report.path, "Train", trained.sections)
        keep_part(job_root, run_id, "train.html", report.path)
        model.metadata["classes"] = list(trained.bundle.classes)
        model.metadata["image_size"] = list(trained.bundle.image_size)
