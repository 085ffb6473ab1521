"""The task type `data_pipeline`: rows from one URI, through SQL, to another.

`pipeline.DataPipeline` is the task function. `payload` reads what the task asks for, `policy` says what its workspace
may touch, `files`, `web` and `buckets` move bytes, `executors.transform` does the rest in a process of its own.
"""

from openmcp_chain.executors.data_pipeline.buckets import S3Settings
from openmcp_chain.executors.data_pipeline.limits import Limits
from openmcp_chain.executors.data_pipeline.pipeline import DataPipeline
from openmcp_chain.executors.data_pipeline.policy import Policy, PolicyError

__all__ = ["DataPipeline", "Limits", "Policy", "PolicyError", "S3Settings"]
