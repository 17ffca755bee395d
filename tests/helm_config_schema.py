"""The part of the chart's values.schema.json that is the cluster's own configuration, written from the same source.

`python -m tests.helm_config_schema` brings it up to date after a key of `cluster/config.py` has changed.
"""

import json
from pathlib import Path
from typing import Any

from cluster.config import ClusterConfig

SCHEMA = Path(__file__).resolve().parents[1] / "helm" / "raydix" / "values.schema.json"
UNUSED = ("title", "default", "description")  # docs/configuration.md has them, and a default may name this machine


def config_definitions() -> dict[str, Any]:
    """What each section may hold, by the section's name."""
    schema = ClusterConfig.model_json_schema()
    sections = schema.pop("$defs")
    return {name: pruned(section) for name, section in (sections | {"ClusterConfig": schema}).items()}


def pruned(node: Any) -> Any:
    """A schema without what says nothing of which values are right."""
    if isinstance(node, list):
        return [pruned(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: pruned(value) for key, value in node.items() if key not in UNUSED}
    if "properties" in node:  # a name there is a key of the file, whatever it is called
        kept["properties"] = {name: pruned(value) for name, value in node["properties"].items()}
    return kept


if __name__ == "__main__":
    values_schema = json.loads(SCHEMA.read_text("utf-8"))
    SCHEMA.write_text(json.dumps(values_schema | {"$defs": config_definitions()}, indent=2) + "\n", "utf-8")
