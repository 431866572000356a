"""What people should label next, ranked between two rounds as well: hard examples keep arriving."""

from kfp import dsl

from components.mine.component import mine
from pipelines import cluster
from pipelines.wiring import taken_by


@dsl.pipeline(
    name="hard-example-mining",
    description="Rank the hard examples that the edge has sent, and leave a list of what to label next.",
)
def hard_example_mining(
    job_root: str,
    label_budget: int = 50,
    random_share: float = 0.1,
    empty_share: float = 0.2,
    miner: str = "entropy",
    miner_parameters: dict = {},  # noqa: B006 - KFP takes the default as a value
    pool_limit: int = 2000,
    plugins: str = "",
    store_secret: str = "edge-learning-store",
) -> None:
    """Rank the hard examples that the edge has sent, and leave a list of what to label next.

    Args:
        job_root: Where the job's state lies: `s3://bucket/prefix`, or on one machine a folder.
        label_budget: How many pictures to ask for; 0 for none.
        random_share: Share of the budget, 0 to 1, drawn at random, to hold the ranking against.
        empty_share: Share of the budget, 0 to 1, for pictures in which the champion finds nothing.
        miner: Rule that ranks the others: `entropy`, `margin`, `IBT`, `Threshold`, `CrossEntropy`, `novelty`,
            `Random`, or one of a plug-in.
        miner_parameters: Of that rule, such as `{"boxes": "mean"}`.
        pool_limit: How many pictures to look at, the latest.
        plugins: Modules to import first, separated by commas.
        store_secret: Cluster: secret with the store's credentials.
    """
    given = dict(locals())
    mined = mine(**taken_by(mine, given))
    cluster.use_store(cluster.use_retries(mined).set_caching_options(False), store_secret)
