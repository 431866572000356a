"""A miner that cannot do what it is for."""

from components.core.miners.base import miners


@miners.register("broken")
class Broken:
    name = "broken"

    def judge(self, frame):
        return 1 / 0
