"""The demo workspace, and the operator that the stack's worker signs in as."""

WORKSPACE = "ws-demo"
OPERATOR = "op-data-pipeline"
TASK_TYPE = "data_pipeline"
