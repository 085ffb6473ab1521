"""What a worker reports on its stream: read as far as it is needed, carried out beside each other, and answered."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from openmcp.chain.v1 import workers_pb2
from openmcp_chain import structs
from openmcp_chain.domain import errors
from openmcp_chain.domain.errors import Violation
from openmcp_chain.engine.allowance import Allowance
from openmcp_chain.engine.bearers import Bearer
from openmcp_chain.engine.dispatch import Dispatcher
from openmcp_chain.engine.leases import LeaseRef, Leases
from openmcp_chain.engine.sessions import Session
from openmcp_chain.engine.volume import SMALL
from openmcp_chain.transport import codec, reports
from openmcp_chain.transport.checks import Checks
from openmcp_chain.transport.dues import Dues
from openmcp_chain.transport.large import Large
from openmcp_chain.transport.messages import REQUEST_BYTES
from openmcp_chain.transport.reports import Completed, Report, Reports

log = logging.getLogger(__name__)

REPORTS = 1024
"""Reports of a stream that are not answered on the wire yet; past it, the server reads no more from the worker."""
REPORT_MEMORY = 2048
"""What one takes besides its bytes, about."""
SAID_BYTES = 8 * 1024
"""What a report may have that ends no lease. Those that do: REQUEST_BYTES."""
BEAT_SECONDS = 1.0
"""How often the server looks, while ends are read that are large, for whom it has to say heartbeats."""
AT_A_TIME = 50
"""So many are said before others have a turn."""
COMPLETE_BYTES = structs.BYTES + 64 * 1024
"""Of a message that has more, the result is too large, however it was written."""

KINDS = {
    "heartbeat": workers_pb2.REPORT_KIND_HEARTBEAT,
    "complete": workers_pb2.REPORT_KIND_COMPLETE,
    "fail": workers_pb2.REPORT_KIND_FAIL,
    "stopped": workers_pb2.REPORT_KIND_STOPPED,
    "log": workers_pb2.REPORT_KIND_LOG,
}
_ENDS = ("complete", "fail")


class Intake:
    """The reports of one stream."""

    def __init__(
        self,
        leases: Leases,
        dispatcher: Dispatcher,
        bearer: Bearer,
        allowance: Allowance,
        large: Large,
        dues: Dues,
        decode: Callable[[bytes], Any],
        say: Callable[[workers_pb2.WorkResponse | errors.Error], None],
    ) -> None:
        """`allowance`: for its reports, and those of its workspace's other streams. `decode`: of a WorkRequest.

        `say` takes the answers, and what ends the stream.
        """
        self._leases = leases
        self._reports = Reports(leases)
        self._dispatcher = dispatcher
        self._bearer = bearer
        self._allowance = allowance
        self._large = large
        self._dues = dues
        self._decode = decode
        self._say = say
        self._slots = asyncio.Semaphore(REPORTS)
        self.under_way: set[asyncio.Task[None]] = set()
        """Those that are being carried out."""
        self._ending: dict[str, asyncio.Task[None]] = {}
        """Of those, the ends that were not small, by the lease's token."""
        self._looked_at = asyncio.get_running_loop().time()
        """When it was last seen for which leases nothing was heard."""

    def answered(self) -> None:
        """An answer is on the wire."""
        self._slots.release()

    def close(self) -> None:
        """Nobody waits for answers any more. What is being written goes on; the worker will say the rest again."""
        for report in self.under_way:
            report.cancel()

    async def take(self, session: Session, request: workers_pb2.WorkRequest) -> None:
        """Begins to carry out a small report, when there is room for it; what says too much is left out or refused."""
        kind = request.WhichOneof("message") or ""
        report = _read(request)
        del request
        held, refusal = self._leases.held_by(session, _ref(kind, report.lease)), None
        allowed: Report | None = report
        if held is None:
            await self._leases.admit(self._bearer.principal, session, codec.lease_ref(report.lease))
        else:
            await self._leases.hear(self._bearer.principal)
            try:
                allowed = self._reports.allowed(self._bearer.principal, held, report)
            except errors.RateLimited as error:
                allowed, refusal = None, error
        if allowed is not None:
            await self._begin(session, kind, allowed)
        else:
            await self._refuse(kind, report.lease, refusal)

    async def take_large(self, session: Session, kind: str, lease: workers_pb2.LeaseRef, data: bytes) -> None:
        """The same for one that is not small: decoded only if it ends a lease, or has no more than it may need.

        Raises RequestTooLarge, InvalidArgument.
        """
        ref, size = _ref(kind, lease), len(data)
        if kind not in _ENDS:
            if size <= SAID_BYTES:
                await self.take(session, self._decode(data))
            elif kind == "heartbeat":
                # Its lease would be lost with it: it is one without progress.
                await self.take(session, workers_pb2.WorkRequest(heartbeat=workers_pb2.Heartbeat(lease=lease)))
            else:
                await self._leases.hear(self._bearer.principal)
                await self._refuse(kind, lease, errors.RequestTooLarge(kind, size, SAID_BYTES))
            return
        if size > REQUEST_BYTES:
            raise errors.RequestTooLarge("complete.result" if kind == "complete" else kind, size, REQUEST_BYTES)
        taking = asyncio.ensure_future(self._take_end(session, kind, lease, ref, data))
        del data
        try:
            if size > SMALL:
                await self._stand_in(session, taking)
            await taking
        finally:
            taking.cancel()
            del taking  # which has the exception that has this frame

    async def _take_end(
        self, session: Session, kind: str, lease: workers_pb2.LeaseRef, ref: LeaseRef, data: bytes
    ) -> None:
        try:
            await self._await_end(session, ref, len(data))
        except errors.Error as refusal:
            await self._refuse(kind, lease, refusal)
            return
        await self._leases.hear(self._bearer.principal)
        if kind == "complete" and len(data) > COMPLETE_BYTES:
            report: Report = Completed.too_large("complete.result", lease)
        else:
            reading = self._read_end(kind, lease, data)
            del data
            report = await reading
        answering = await self._begin(session, kind, report)
        self._ending[ref.token] = answering
        answering.add_done_callback(lambda _: self._ending.pop(ref.token, None))

    async def _stand_in(self, session: Session, taking: "asyncio.Future[None]") -> None:
        """Returns when a large end has been taken. What the worker says meanwhile stands behind it, heartbeats too.

        So the server says those for it, and answers them: of each lease of which something should have been heard by
        now. A large end may wait for others of the workspace; and many that are read at once take as long together.
        """
        loop = asyncio.get_running_loop()
        while True:
            if (wait := self._looked_at + BEAT_SECONDS - loop.time()) > 0:
                await asyncio.wait([taking], timeout=wait)
            else:
                await self._say_heartbeats(session, taking)
            if taking.done():
                return

    async def _say_heartbeats(self, session: Session, taking: "asyncio.Future[None]") -> None:
        """Says all that are due, unless that takes so long that the worker's own can be read before."""
        loop = asyncio.get_running_loop()
        self._looked_at = loop.time()
        for number, ref in enumerate(self._leases.unheard(session), start=1):
            beat = workers_pb2.Heartbeat(lease=codec.named_lease(ref))
            await self.take(session, workers_pb2.WorkRequest(heartbeat=beat))
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)
            if taking.done() and loop.time() >= self._looked_at + BEAT_SECONDS:
                return

    async def _read_end(self, kind: str, lease: workers_pb2.LeaseRef, data: bytes) -> Report:
        principal, size = self._bearer.principal, len(data)
        line = f"{principal.workspace}/ends"  # its calls don't wait for them
        reading = self._large.reading(line, size, rests=self._dues.ended(principal, size) > 0)
        try:
            decoded = [await reading.run(self._decode, data)]
            del data
            if getattr(decoded[0], kind).lease != lease:
                raise errors.InvalidArgument(Violation(f"{kind}.lease", "must be given once"))
            return await reading.run(_read, decoded.pop())
        finally:
            reading.end()

    async def _await_end(self, session: Session, ref: LeaseRef, size: int) -> None:
        """Returns when an end may be read that is not small. Raises LeaseLost; RateLimited if much was said again."""
        if (ending := self._ending.get(ref.token)) is not None:
            await asyncio.wait([ending])
        if self._leases.held_by(session, ref) is not None:
            return
        principal = self._bearer.principal
        await self._leases.admit(principal, session, ref)
        if not await self._leases.lives_for(principal, ref):
            self._dues.said_again(principal, size)

    async def _begin(self, session: Session, kind: str, report: Report) -> asyncio.Task[None]:
        """Begins to carry out a report that is allowed, when there is room for it."""
        await self._slots.acquire()
        size = report.ByteSize() + REPORT_MEMORY
        await self._allowance.take(size)
        answering = asyncio.create_task(self._answer(session, kind, report))
        self.under_way.add(answering)
        answering.add_done_callback(self.under_way.discard)
        # Not in it: it may be cancelled before it begins.
        answering.add_done_callback(lambda _: self._allowance.give_back(size))
        return answering

    async def _answer(self, session: Session, kind: str, report: Report) -> None:
        """Carries out a report, beside others so that they share their writes, and answers it."""
        refusal = None
        try:
            await self._reports.carry_out(self._bearer.principal, report)
        except errors.Error as error:
            refusal = error
        except Exception:
            log.exception("unforeseen")
            self._say(errors.Internal())
            return
        self._acknowledge(kind, report.lease, refusal)
        # However long that has taken: it was not the worker that was silent, and it may have nothing more to say.
        self._dispatcher.heard(session)

    async def _refuse(self, kind: str, lease: workers_pb2.LeaseRef, refusal: errors.Error | None) -> None:
        await self._slots.acquire()
        self._acknowledge(kind, lease, refusal)

    def _acknowledge(self, kind: str, lease: workers_pb2.LeaseRef, refusal: errors.Error | None) -> None:
        ack = workers_pb2.Ack(lease=lease, kind=KINDS[kind])
        if refusal is not None:
            ack.error_code = refusal.code
            ack.error_message = refusal.message
        self._say(workers_pb2.WorkResponse(ack=ack))


def _read(request: workers_pb2.WorkRequest) -> Report:
    """The report, of what is kept of it. Runs in a thread where it is large."""
    kind = request.WhichOneof("message") or ""
    if kind == "complete":
        return Completed.read("complete.result", request.complete.lease, request.complete.result)
    return reports.cut(getattr(request, kind))


def _ref(kind: str, lease: workers_pb2.LeaseRef) -> LeaseRef:
    """Raises InvalidArgument."""
    checks = Checks()
    checks.lease(f"{kind}.lease", lease)
    checks.done()
    return codec.lease_ref(lease)
