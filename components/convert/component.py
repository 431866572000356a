"""Convert as a KFP component."""

from kfp import dsl

from components import images


@images.convert_component
def convert(
    manifest: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    job_root: str,
    converted: dsl.Output[dsl.Model],
    conversion: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    split: str = "test",
    run_id: str = "",
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Convert a model for Rockchip chips and evaluate each result against the float model on the simulator.

    Args:
        manifest: Samples with splits; `train` calibrates.
        model: A bundle.
        job_root: Where the job is kept; builds are kept in this machine's cache of it.
        converted: The bundle with a `model.<target>.rknn` for each target that passed, and beside it a
            `model.<target>.golden.npz`, which a board is checked with.
        conversion: Outcome (converted, failed or skipped) with every reason and attempt, as JSON.
        report: Float against converted, what runs where, and the verdict, as a page.
        split: Which samples to evaluate on: `test` or `val`.
        run_id: Name of the run, under which the page is kept for its report; empty keeps none.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("convert", job_root, manifest.metadata.get("round"), settings):
        report.metadata["display_name"] = "convert_report"  # what the pages of Kubeflow show
        import json
        from pathlib import Path

        from components.convert.convert import convert as to_chips
        from components.convert.gate import Limits
        from components.core import plugins
        from components.core.manifest import Manifest
        from components.core.parameters import CommonSettings, ConvertSettings, read
        from components.core.reports.page import write_page
        from components.core.reports.parts import keep_part

        common, chosen = read(CommonSettings, settings), read(ConvertSettings, settings)
        plugins.load(common.plugins)
        done = to_chips(
            Manifest.read(manifest.path),
            Path(model.path),
            Path(converted.path),
            job_root=job_root,
            targets=chosen.targets,
            quantization=chosen.quantization,
            quantization_retries=chosen.quantization_retries,
            calibration_size=chosen.calibration_size,
            max_eval_images=chosen.max_eval_images,
            split=split,
            limits=Limits(chosen.max_map_drop, chosen.max_f1_drop, chosen.min_score_ratio),
            seed=common.seed,
            time_limit=chosen.conversion_timeout,
        )
        Path(conversion.path).write_text(json.dumps(done.to_dict(), indent=2), encoding="utf-8")
        conversion.metadata["outcome"] = str(done.outcome)
        if "task" in model.metadata:  # of lifelong learning
            conversion.metadata["task"] = model.metadata["task"]
        # Without the name that the page of the run shows for the model.
        converted.metadata.update({name: value for name, value in model.metadata.items() if name != "display_name"})
        write_page(report.path, "Convert", done.sections)
        of_task = f"-{model.metadata['task']}" if "task" in model.metadata else ""
        keep_part(job_root, run_id, f"convert{of_task}.html", report.path)
        keep_part(job_root, run_id, f"conversion{of_task}.json", conversion.path)
