"""How pipelines hand their parameters on."""

from collections.abc import Mapping
from typing import Any


def taken_by(component: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a pipeline's parameters that a component takes by the same name."""
    return {name: given[name] for name in component.component_spec.inputs if name in given}
