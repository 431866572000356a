"""Mine as a KFP component."""

from kfp import dsl

from components import images


@images.train_component
def mine(
    job_root: str,
    ranking: dsl.Output[dsl.Dataset],
    to_label: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    label_budget: int = 50,
    random_share: float = 0.1,
    empty_share: float = 0.2,
    miner: str = "doubt",
    miner_parameters: dict = {},  # noqa: B006 - KFP takes the default as a value
    least_score: float = 0.05,
    pool_limit: int = 2000,
    prelabel_job: str = "",
    runtime: str = "onnx",
    plugins: str = "",
) -> None:
    """Choose which images people should label next, and leave the list in the job's root, under `to-label/`.

    Args:
        job_root: Where the job's state lies, and the hard examples of its workers.
        ranking: The chosen images, the most wanted first, each with share, score and reason, as CSV.
        to_label: The same images as unlabelled samples.
        counts: How many were chosen, out of how many, and what was left out.
        report: The chosen images with what the champion found, as a page.
        label_budget: How many images to ask for; 0 for none.
        random_share: Share of the budget, 0 to 1, drawn at random, as a baseline for the ranking.
        empty_share: Share of the budget, 0 to 1, for images in which the champion finds nothing.
        miner: Rule that ranks the others: `doubt`, `entropy`, `margin`, `IBT`, `Threshold`, `CrossEntropy`, `novelty`,
            `Random`, or one of a plug-in.
        miner_parameters: Of that rule, such as `{"boxes": "mean"}` of `entropy`.
        least_score: Score, 0 to 1, of the boxes that the rule looks at.
        pool_limit: How many images to look at, the latest.
        prelabel_job: Root of another job whose champion, a larger model say, finds the boxes that people correct; empty
            for this job's.
        runtime: What runs the champion: `onnx`, or one of a plug-in.
        plugins: Modules to import first, separated by commas, for a miner or runtime of your own.
    """
    from components.core.steps import step

    with step("mine"):
        import logging
        from pathlib import Path

        from components.core import plugins as registry
        from components.core.job.label_requests import write_list
        from components.core.reports.page import write_page
        from components.core.stores.open import open_store
        from components.mine.mine import mine as choose

        registry.load(plugins)
        mined = choose(
            job_root,
            label_budget=int(label_budget),
            random_share=random_share,
            empty_share=empty_share,
            miner=miner,
            miner_parameters=miner_parameters,
            least_score=least_score,
            pool_limit=int(pool_limit),
            runtime=runtime,
            prelabel_job=prelabel_job,
        )
        Path(ranking.path).write_text(mined.ranking().write_csv(), encoding="utf-8")
        mined.manifest().write(to_label.path)
        write_page(report.path, "Mine", mined.sections)
        for name, count in mined.counts.items():
            counts.log_metric(name, count)
        logging.info("the list is %s", write_list(open_store(job_root), mined.wanted))
