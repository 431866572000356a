"""Showing a report in a notebook."""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from components.core.stores.open import open_store


@dataclass(frozen=True)
class Shown:
    """A report as the output of a cell: the whole page is in it, wherever Jupyter was started or is opened later.

    Attributes:
        page: HTML.
        height: of the frame, pixels.
    """

    page: str = field(repr=False)
    height: int = 700

    def _repr_html_(self) -> str:
        source = html.escape(self.page, quote=True)
        style = f"width: 100%; height: {self.height}px; border: 0"
        return f'<iframe srcdoc="{source}" sandbox style="{style}"></iframe>'


def show(report: str, height: int = 700) -> Shown:
    """A report for the last line of a cell.

    Args:
        report: its address, as a pipeline returns it; on a disk or in an S3 store.
        height: of the frame, pixels.

    Raises:
        NotFoundError: there is none at the address.
    """
    root, _, name = report.rpartition("/reports/")
    return Shown(open_store(root).read(f"reports/{name}").decode(), height)
