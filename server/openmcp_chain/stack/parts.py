"""The processes of one stack, as a whole."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from openmcp_chain.stack.children import Child, Program
from openmcp_chain.stack.console import Console
from openmcp_chain.stack.state import DataFolder

READY_SECONDS = 60.0
"""How long a part may take until it is ready. They take three seconds together, on two idle cores."""
END_ORDER = ("worker", "server", "envoy", "database")
"""The worker gives its tasks back while the server can still note it; the server ends its streams while Envoy still
carries them."""
_Result = TypeVar("_Result")


class Parts:
    """Starts them, says so when one is started again, ends them in order."""

    def __init__(self, folder: DataFolder, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._children: dict[str, Child] = {}
        self.on_restart: Callable[[], None] = lambda: None
        """Called after each restart, when `pids` has changed."""

    @property
    def pids(self) -> Mapping[str, int]:
        return {name: child.pid for name, child in self._children.items()}

    async def spawn(self, program: Program) -> None:
        """Starts a part; it is not yet ready."""
        child = self._children[program.name] = Child(program, self._folder.logs, self._restarted)
        await child.start()

    async def until_ready(self, name: str, probe: Callable[[], Awaitable[bool]]) -> None:
        """Raises StackError if the part dies instead, or takes too long."""
        await self._children[name].ready(probe, READY_SECONDS)

    async def lost(self) -> None:
        """Raises StackError when a part can't be started again; until then it doesn't return."""
        await asyncio.gather(*(child.lost() for child in self._children.values()))

    async def unless_lost(self, step: Coroutine[Any, Any, _Result]) -> _Result:
        """Returns what the step does. Raises StackError, and stops it, when a part can't be started again meanwhile."""
        doing, losing = asyncio.create_task(step), asyncio.create_task(self.lost())
        try:
            await asyncio.wait((doing, losing), return_when=asyncio.FIRST_COMPLETED)
            if losing.done():
                losing.result()
            return doing.result()
        finally:
            doing.cancel()
            losing.cancel()

    async def end(self) -> None:
        """Ends all, each within its grace."""
        for name in END_ORDER:
            if name in self._children:
                await self._children[name].stop()

    def kill(self) -> None:
        """Ends all at once; `end` still has to see it through."""
        for child in self._children.values():
            child.kill()

    def _restarted(self, child: Child, ending: str) -> None:
        self._console.warning(f"{child.name} {ending}; started again as process {child.pid} (its log: {child.log})")
        try:
            self.on_restart()
        except OSError as error:  # a full disk: whoever asks for the part's id is told the last one's
            self._console.warning(f"its process can't be told: {error}")
