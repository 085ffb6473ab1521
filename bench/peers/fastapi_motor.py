"""What one would write in an afternoon: FastAPI, motor, one durable insert for each request.

At its best: uvicorn on uvloop and httptools, no access log, no authentication, no list of retryable writes. The
document has our tasks' fields; its collection their indexes, or none but `_id`.

`python -m bench.peers.fastapi_motor PORT MONGODB_URI [indexed]`
"""

import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI
from motor.motor_asyncio import AsyncIOMotorClient
from pydantic import BaseModel
from pymongo import WriteConcern

from openmcp_chain.store.mongo import indexes


class SubmitTask(BaseModel):
    """A task to run."""

    workspace_id: str
    type: str
    payload: dict[str, Any]
    metadata: dict[str, str]


class TaskSummary(BaseModel):
    """The answer to a submitted task."""

    task_id: str
    status: str
    submitted_at: datetime


def make(mongodb_uri: str, *, indexed: bool) -> FastAPI:
    """The application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(mongodb_uri)
        if indexed:
            await client.tasks.tasks.create_indexes(list(indexes.INDEXES["tasks"]))
        app.state.tasks = client.tasks.get_collection("tasks", write_concern=WriteConcern(w="majority", j=True))
        print("ready", flush=True)
        yield
        client.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/tasks", status_code=201)
    async def submit(task: SubmitTask) -> TaskSummary:
        now = datetime.now(UTC)
        task_id = str(uuid.uuid4())
        await app.state.tasks.insert_one(
            {
                "_id": task_id,
                "workspace": task.workspace_id,
                "type": task.type,
                "payload": task.payload,
                "metadata": task.metadata,
                "priority": 3,
                "queue": f"{task.type}/{task.workspace_id}/3",
                "version": 1,
                "status": "PENDING",
                "attempt": 0,
                "submitted_at": now,
                "due_at": now,
                "updated_at": now,
                "events": [{"seq": 1, "status": "PENDING", "at": now}],
            }
        )
        return TaskSummary(task_id=task_id, status="PENDING", submitted_at=now)

    return app


if __name__ == "__main__":
    uvicorn.run(
        make(sys.argv[2], indexed="indexed" in sys.argv[3:]),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
