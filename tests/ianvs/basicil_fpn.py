"""The class of ianvs' page on BasicIL-FPN as an estimator of this suite: a user's own file, named by ``plugins``.

There it is ``@ClassFactory.register(ClassType.GENERAL, alias="FPN") class BaseModel`` with train, save, predict, load
and evaluate. The hyper-parameters keep their names; the network is the suite's own FPN, where ianvs calls a package of
TensorFlow 1.
"""

import math
import zipfile
from pathlib import Path

from components.core.errors import InputError
from components.core.estimators.base import estimators
from components.core.estimators.fpn import Fpn

DEFAULTS = {"learning_rate": 0.0001, "momentum": 0.9, "max_iteration": 5}
MAX_BYTES = 2 << 30


@estimators.register("BasicIL-FPN")
class BasicIlFpn(Fpn):
    """FPN that takes a few steps in each round."""

    def check(self, base_model, options):
        unknown = [f"{name} is not one of {', '.join(DEFAULTS)}" for name in options if name not in DEFAULTS]
        return unknown or super().check(base_model, self._options(options))

    def load(self, model):
        """The page keeps a checkpoint in ``model.zip``; bundles and architectures load as they are."""
        path = Path(model)
        if path.suffix != ".zip":
            return super().load(model)
        with zipfile.ZipFile(path) as archive:
            (entry,) = archive.infolist()
            if entry.file_size > MAX_BYTES:
                raise InputError(f"base_model={model}: {entry.filename} has more than {MAX_BYTES >> 30} GB")
            target = path.with_suffix(".pt")
            target.write_bytes(archive.read(entry))
        return super().load(target)

    def train(self, train, val, *, epochs, batch, options, **others):
        """``max_iteration`` counts steps, not passes."""
        steps = int(options.get("max_iteration", DEFAULTS["max_iteration"]))
        passes = max(1, math.ceil(steps * batch / len(train.paths)))
        super().train(train, val, epochs=min(epochs, passes), batch=batch, options=self._options(options), **others)

    @staticmethod
    def _options(options):
        chosen = {**DEFAULTS, **options}
        return {"lr": chosen["learning_rate"], "momentum": chosen["momentum"], "samples_per_image": 8}
