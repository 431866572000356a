"""Label as a KFP component."""

from kfp import dsl

from components import images


@images.small_component
def label(
    job_root: str,
    counts: dsl.Output[dsl.Metrics],
    label_format: str = "label-studio",
    round_number: int = -1,
    classes: str = "",
    plugins: str = "",
) -> str:
    """Hand the images that `mine` asked for to people, with the model's boxes to correct, in their tool's format.

    Labels come back through the job's feed. Each image is named by its content, `<sha256>.jpg`, which brings its
    labels back to the right sample whatever folder they come in; one that a tool has written anew is another image.

    Args:
        job_root: Where the job's state lies, and its lists under `to-label/`; the hand-off goes to `labelling/`.
        counts: How many images and boxes were handed over, and how many images of the list were not there.
        label_format: `label-studio` (a folder: `config.xml` for the project, `tasks.json` to import, `images`), or
            `coco`, `yolo` or `voc` (a zip file), or a format of a plug-in.
        round_number: Whose list; -1 for the latest.
        classes: Class names to offer besides those of the list, which has none before the first round.
        plugins: Modules to import first, separated by commas, for formats of your own.

    Returns:
        Where the folder or zip file lies; empty if the list asks for nothing.
    """
    from components.core.steps import step

    with step("label"):
        from components.core import plugins as registry
        from components.label.label import label as hand_over

        registry.load(plugins)
        handed = hand_over(job_root, label_format=label_format, round_number=int(round_number), classes=classes)
        for name, count in handed.counts.items():
            counts.log_metric(name, count)
        return handed.uri
