"""What a node of the pipeline does: fetch its inputs, call the plain functions of the library, keep what came out.

`run_node` is the one entry; `dagster_project` calls it in the run worker for light nodes and in a process of their own
for heavy ones. Nothing in here knows of Dagster.
"""

from llm_platform.agents.node import Node, Platform
from llm_platform.agents.run import help_train, needs_process, run_node

__all__ = ["Node", "Platform", "help_train", "needs_process", "run_node"]
