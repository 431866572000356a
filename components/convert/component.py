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
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    targets: str = "",
    quantization: str = "int8",
    quantization_retries: str = "kl_divergence,mmse",
    calibration_size: int = 100,
    check_size: int = 300,
    max_map_loss: float = 0.02,
    max_f1_loss: float = 0.02,
    min_score_ratio: float = 0.9,
    conversion_timeout: float = 3600.0,
    split: str = "test",
    seed: int = 0,
) -> None:
    """Convert a model for Rockchip chips and measure each result against the float model on the simulator.

    Args:
        manifest: Samples with splits; `train` calibrates.
        model: A bundle.
        job_root: Where the job's state lies; builds are kept in this machine's cache of it.
        converted: The bundle with a `model.<target>.rknn` for each target that passed, and beside it a
            `model.<target>.golden.npz`, which a board is checked with.
        conversion: Outcome (converted, failed or skipped) with every reason and attempt, as JSON.
        metrics: What each target's model scored.
        report: Float against converted, what runs where, and the verdict, as a page.
        targets: Chips such as `rk3588,rk3568`; empty to leave the model as it is.
        quantization: `int8` or `fp16`.
        quantization_retries: What to try, in this order, when int8 loses too much: `kl_divergence`, `mmse`, `fp16`.
        calibration_size: Most training images that int8 takes its ranges from.
        check_size: Most labelled images to measure on.
        max_map_loss: Most that mAP50 and mAP50-95 may fall, 0 to 1; of a segmentation mIoU and correct pixels.
        max_f1_loss: Most that the F1 of any class may fall at the deployed confidence, 0 to 1; or its IoU.
        min_score_ratio: Least that the highest score may be of what it was, 0 to 1.
        conversion_timeout: Seconds that one build with its measurement may take.
        split: Whose images are measured on: `test` or `val`.
        seed: Of the choice of images.
    """
    from components.core.steps import step

    with step("convert", job_root, manifest.metadata.get("round")):
        import json
        from pathlib import Path

        from components.convert.convert import convert as to_chips
        from components.convert.gate import Limits
        from components.core.manifest import Manifest
        from components.core.reports.page import write_page

        done = to_chips(
            Manifest.read(manifest.path),
            Path(model.path),
            Path(converted.path),
            job_root=job_root,
            targets=targets,
            quantization=quantization,
            quantization_retries=quantization_retries,
            calibration_size=int(calibration_size),
            check_size=int(check_size),
            split=split,
            limits=Limits(max_map_loss, max_f1_loss, min_score_ratio),
            seed=int(seed),
            time_limit=conversion_timeout,
        )
        Path(conversion.path).write_text(json.dumps(done.to_dict(), indent=2), encoding="utf-8")
        conversion.metadata["outcome"] = str(done.outcome)
        converted.metadata.update(model.metadata)
        write_page(report.path, "Convert", done.sections)
        for name, value in done.as_flat().items():
            metrics.log_metric(name, value)
