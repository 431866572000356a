"""Mine as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def mine(
    job_root: str,
    ranking: dsl.Output[dsl.Dataset],
    to_label: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Choose which images people should label next, and leave the list in the job's root, under `to-label/`.

    Args:
        job_root: Where the job is kept, with the hard examples of its workers.
        ranking: The chosen images, the most valuable first, each with share, score and reason, as CSV.
        to_label: The same images as unlabelled samples.
        report: The chosen images with what the champion found, as a page.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step("mine", job_root):
        report.metadata["display_name"] = "mine_report"  # what the pages of Kubeflow show
        import logging
        from pathlib import Path

        from components.core import plugins
        from components.core.job.job import Job
        from components.core.job.label_requests import write_list
        from components.core.label_studio.answers import read_answers
        from components.core.parameters import LabelStudioSettings, MineSettings, RuntimeSettings, read
        from components.core.reports.page import write_page
        from components.mine.mine import mine as choose
        from components.report.report import keep

        common, chosen = read(RuntimeSettings, settings), read(MineSettings, settings)
        plugins.load(common.plugins)
        job = Job.open(job_root)
        job.read_existing()  # a mistyped address is no job in which nothing is to be asked for
        answers = read_answers(job.store)[0] if read(LabelStudioSettings, settings).label_studio_url else None
        mined = choose(job_root, runtime=common.runtime, answers=answers, **dict(chosen))
        Path(ranking.path).write_text(mined.ranking().write_csv(), encoding="utf-8")
        mined.manifest().write(to_label.path)
        write_page(report.path, "Mine", mined.sections)
        mined.proposals.write(job.store)
        logging.info("label requests: %s", write_list(job.store, mined.wanted))
        if mined.wanted.images:
            logging.info("the images are shown in %s", keep(report.path, job_root, "Images to label", mined.counts))
