"""Label as a KFP component."""

from kfp import dsl

from components import images


@images.small_component
def label(
    job_root: str,
    counts: dsl.Output[dsl.Metrics],
    round_number: int = -1,
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> str:
    """Hand the images that `mine` asked for to people, with the model's boxes to correct, in their tool's format.

    Labels come back through the job's feed. Each image is named by its content, `<sha256>.jpg`, which brings its labels
    back to the right sample whatever folder they come in; one that a tool has written anew is another image.

    Args:
        job_root: Where the job is kept, with its lists under `to-label/`; the hand-off goes to `labelling/`.
        counts: How many images and boxes were handed over, and how many images of the list were not there.
        round_number: Whose list; -1 for the latest.
        settings: Parameters by name.

    Returns:
        Where the folder or zip file is; empty if the list asks for nothing.
    """
    from components.core.steps import step

    with step("label", job_root):
        from components.core import plugins
        from components.core.parameters import CommonSettings, LabelSettings, read
        from components.label.label import label as hand_over

        chosen = read(LabelSettings, settings)
        plugins.load(read(CommonSettings, settings).plugins)
        handed = hand_over(job_root, round_number=int(round_number), **dict(chosen))
        for name, count in handed.counts.items():
            counts.log_metric(name, count)
        return handed.uri
