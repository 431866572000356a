"""Sedna's tutorial of lifelong learning brings a definition of tasks of its own; this is how it looks here."""

from components.core.lifelong.plug_points import TaskDefinition, task_definitions


@task_definitions.register("tutorial-origin")
class TutorialOrigin(TaskDefinition):
    """``attribute`` "real, sim": images of a city are real, all others are simulated."""

    attribute: str = "real, sim"
    city: str = "berlin"

    def assign(self, samples, state):
        real, sim = self.attribute.split(", ")
        return [real if self.city in source else sim for source in samples.columns["source"]]
