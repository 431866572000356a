"""A user's file with a plug-in of its own for every plug point of lifelong learning."""

import numpy as np

from components.core.detections import Detections
from components.core.lifelong.plug_points import (
    Decision,
    InferenceIntegration,
    ReRecognition,
    TaskAllocation,
    TaskDefinition,
    TaskRelation,
    TaskRemodeling,
    TaskUpdate,
    UnseenAllocation,
    UnseenDetection,
    UnseenPolicy,
    inference_integrations,
    re_recognitions,
    task_allocations,
    task_definitions,
    task_relations,
    task_remodelings,
    task_updates,
    unseen_allocations,
    unseen_detections,
    unseen_policies,
)


@task_definitions.register("own")
class Definition(TaskDefinition):
    dark: str = "night"

    def assign(self, samples, state):
        return ["dark" if self.dark in source else "light" for source in samples.columns["source"]]


@task_allocations.register("own")
class Allocation(TaskAllocation):
    dim: float = 0.4

    def allocate(self, samples, defined, state):
        return ["dark" if light < self.dim else "light" for light in samples.features[:, :3].mean(axis=1)]


@task_remodelings.register("own")
class Remodeling(TaskRemodeling):
    also: str = "shared"

    def models(self, members, shared):
        return [tuple(dict.fromkeys((member, self.also))) for member in members]


@inference_integrations.register("own")
class Integration(InferenceIntegration):
    kinds = ("detection",)

    least: float = 0.0

    def integrate(self, answers):
        surest = max(answers, key=lambda one: float(one.scores.max(initial=0)))
        return Detections(*(part[surest.scores >= self.least] for part in (
            surest.boxes, surest.scores, surest.classes)))  # fmt: skip


@task_relations.register("own")
class Relation(TaskRelation):
    of: str = "light"

    def parent(self, shared, scores):
        return self.of if self.of in scores else shared


@task_updates.register("own")
class Update(TaskUpdate):
    why: str = "always anew"

    def decide(self, task):
        return Decision("retrain" if task.has_model else "new", self.why)


@unseen_detections.register("own")
class Detection(UnseenDetection):
    scale: float = 2.0

    def fit(self, features, tasks):
        return {"mean": features.mean(axis=0).tolist()}

    def score(self, features, state):
        return self.scale * np.abs(features - np.array(state["mean"])).max(axis=1)


@unseen_allocations.register("own")
class Elsewhere(UnseenAllocation):
    to: str = "light"

    def allocate(self, features, state):
        return [self.to] * len(features)


@unseen_policies.register("own")
class Policy(UnseenPolicy):
    most: int = 0

    def warns(self, unseen, images):
        return unseen > self.most


@re_recognitions.register("own")
class Again(ReRecognition):
    factor: float = 0.5

    def known(self, scores, threshold):
        return [bool(score < self.factor * threshold) for score in scores]
