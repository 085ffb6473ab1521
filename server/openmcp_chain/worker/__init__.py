"""The Python worker: `Worker` runs task functions for a server. See `docs/worker.md`.

worker = Worker.from_environment()

@worker.task("greet")
def greet(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    return {"text": f"Hello {payload['name']}"}

worker.run()
"""

from openmcp_chain.client.errors import SettingsError
from openmcp_chain.worker.conversation import WorkerRefused, WorkerStuck
from openmcp_chain.worker.task import Cancelled, Context, TaskFailed
from openmcp_chain.worker.worker import Worker

__all__ = ["Cancelled", "Context", "SettingsError", "TaskFailed", "Worker", "WorkerRefused", "WorkerStuck"]
