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
    """Hand the images that `mine` asked for to people, with the model's boxes or masks to correct.

    With `label_studio_url` they become tasks in Label Studio, and `trigger` and `collect` fetch what has been answered.
    Otherwise they become files in the format of a labelling tool, whose labels come back through the job's feed. Each
    image is named by its content, `<sha256>.jpg`, which brings its labels back to the right sample whatever folder they
    come in; one that a tool has written anew is another image.

    Args:
        job_root: Where the job is kept, with its lists under `to-label/`; the hand-off goes to `labelling/`.
        counts: How many images and boxes were handed over, and how many images of the list were not.
        round_number: Whose list; -1 for the latest.
        settings: Parameters by name.

    Returns:
        Where the project, the folder or the zip file is; empty if nothing is handed over.
    """
    from components.core.steps import step

    with step("label", job_root):
        from components.core import plugins
        from components.core.parameters import LabelSettings, LabelStudioSettings, PluginSettings, read
        from components.core.stores.open import open_store
        from components.ingest.answers import fetch_answers
        from components.label.label import label as hand_over
        from components.label.send import send

        chosen, studio = read(LabelSettings, settings), read(LabelStudioSettings, settings)
        plugins.load(read(PluginSettings, settings).plugins)
        if studio.label_studio_url:
            place = studio.model_dump(exclude={"keep_annotators"})
            handed = send(job_root, round_number=int(round_number), classes=chosen.classes, **place)
            # What waits is known from here on, also where no poll fetches it, so that the next list is of others.
            fetch_answers(open_store(job_root), **studio.model_dump(exclude={"label_queue"}))
        else:
            handed = hand_over(job_root, round_number=int(round_number), **dict(chosen))
        for name, count in handed.counts.items():
            counts.log_metric(name, count)
        return handed.uri


@images.small_component
def send(
    job_root: str,
    settings: dict = {},  # noqa: B006
) -> str:
    """Send the images that were asked for last to Label Studio; nothing without `label_studio_url`.

    Args:
        job_root: Where the job is kept, with its lists under `to-label/`.
        settings: Parameters by name.

    Returns:
        Address of the project; empty if nothing is sent.
    """
    from components.core.steps import step

    with step("send", job_root):
        import logging

        from components.core.errors import InputError
        from components.core.job.label_requests import read_lists
        from components.core.parameters import LabelSettings, LabelStudioSettings, read
        from components.core.stores.open import open_store
        from components.ingest.answers import fetch_answers
        from components.label.send import send as send_list

        studio = read(LabelStudioSettings, settings)
        store = open_store(job_root)
        if not studio.label_studio_url or next(read_lists(store), None) is None:
            return ""
        try:
            place = studio.model_dump(exclude={"keep_annotators"})
            uri = send_list(job_root, classes=read(LabelSettings, settings).classes, **place).uri
        except InputError:
            logging.warning(
                "the round before is committed all the same; the next round, or the pipeline hard-example-mining, "
                "sends what is missing"
            )
            raise
        # So that mine asks for others, also before the next poll.
        fetch_answers(store, **studio.model_dump(exclude={"label_queue"}))
        return uri
