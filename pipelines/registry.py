"""Every pipeline and component there is, by name."""

from typing import Any

from components.evaluate.component import evaluate
from components.ingest.component import ingest
from components.prepare.component import prepare
from components.report.component import report
from components.setup.component import setup
from components.train.component import train
from pipelines.helmet_detection import helmet_detection

COMPONENTS: dict[str, Any] = {
    "evaluate": evaluate,
    "ingest": ingest,
    "prepare": prepare,
    "report": report,
    "setup": setup,
    "train": train,
}

PIPELINES: dict[str, Any] = {
    "helmet-detection": helmet_detection,
}
