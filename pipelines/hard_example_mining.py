"""What people should label next, ranked between two rounds as well: hard examples keep arriving."""

from kfp import dsl

from components.label.component import label
from components.mine.component import mine
from pipelines import cluster
from pipelines.wiring import taken_by


@dsl.pipeline(
    name="hard-example-mining",
    description="Rank the hard examples that the edge has sent, and hand those over that should be labelled next.",
)
def hard_example_mining(
    job_root: str,
    label_budget: int = 50,
    random_share: float = 0.1,
    empty_share: float = 0.2,
    miner: str = "doubt",
    miner_parameters: dict = {},  # noqa: B006 - KFP takes the default as a value
    least_score: float = 0.05,
    pool_limit: int = 2000,
    prelabel_job: str = "",
    label_format: str = "label-studio",
    classes: str = "",
    plugins: str = "",
    store_secret: str = "edge-learning-store",
) -> str:
    """Rank the hard examples that the edge has sent, and hand those to people that should be labelled next.

    Args:
        job_root: Where the job's state lies: `s3://bucket/prefix`, or on one machine a folder.
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
        label_format: Form of the hand-off under `labelling/`: `label-studio`, `coco`, `yolo`, `voc`, or of a plug-in.
        classes: Class names to offer besides those that the job has.
        plugins: Modules to import first, separated by commas.
        store_secret: Cluster: secret with the store's credentials.

    Returns:
        Where the hand-off lies; empty if nothing is asked for.
    """
    given = dict(locals())
    mined = mine(**taken_by(mine, given))
    handed = label(**taken_by(label, given)).after(mined)
    for task in (mined, handed):
        cluster.use_store(cluster.use_retries(task).set_caching_options(False), store_secret)
    return handed.outputs["Output"]
