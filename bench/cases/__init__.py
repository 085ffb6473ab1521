"""Everything that is measured. A new case is a file here and a line in a table below."""

from bench.case import Goal, Ratio, Table
from bench.cases import (
    bare_motor,
    dev_stack,
    echo_submit,
    events,
    fastapi_submit,
    floors,
    idle_streams,
    least_submit,
    openmcp_batch,
    openmcp_drain,
    openmcp_get,
    openmcp_latency,
    openmcp_submit,
    peer_drain,
    peer_latency,
    rest_submit,
    sign_in,
)
from bench.figures import (
    AMBER,
    BEHIND,
    BLUE,
    CALLS,
    DATABASE,
    ENVOY,
    GREEN,
    GREY,
    LOAD,
    PLUM,
    SERVER,
    Column,
    Part,
    Plot,
    cpu,
    cpu_a_second,
    less,
    more,
    rate,
    seconds,
)
from bench.load.windows import GAP_SECONDS
from openmcp_chain.transport.rest import PING_SECONDS

ECHO, FASTAPI, BARE, SUBMIT = echo_submit.CASE, fastapi_submit.CASE, fastapi_submit.BARE, openmcp_submit.CASE
LEAST, LEAST_TWO = least_submit.CASE, least_submit.TWO
LEAST_TOLD, LEAST_SHARED, LEAST_APART = least_submit.TWO_TOLD, least_submit.TWO_SHARED, least_submit.TWO_APART
GET, DRAIN = openmcp_get.CASE, openmcp_drain.CASE
BATCH, INSERT, BARE_DRAIN = openmcp_batch.CASE, bare_motor.INSERT, bare_motor.DRAIN
SUBMIT_BEHIND, DRAIN_BEHIND = openmcp_submit.BEHIND, openmcp_drain.BEHIND
LATENCY = openmcp_latency.CASE
START, RESULT = more("start_p50_ms"), more("result_p50_ms")
EVENT, EVENT_OTHER, EVENT_LEAST, CHANGE_STREAM = events.SAME, events.OTHER, events.LEAST, events.BARE
BEGUN, ACKNOWLEDGED = more("begun_p50_ms"), more("acknowledged_p50_ms")
STREAMS_NONE, STREAMS, STREAMS_SSE = idle_streams.NONE, idle_streams.TYPED, idle_streams.SERVED
SUBMIT_TWO, TWO_TOLD, TWO_SHARED = openmcp_submit.TWO, openmcp_submit.TWO_TOLD, openmcp_submit.TWO_SHARED
SUBMIT_PACED, REST_PACED = openmcp_submit.PACED, rest_submit.PACED
SUBMIT_FAST, REST_FAST = openmcp_submit.FAST, rest_submit.FAST
ECHO_PACED, ECHO_FAST = echo_submit.PACED, echo_submit.FAST
ECHO_REST, ECHO_REST_PACED, ECHO_REST_FAST = echo_submit.REST, echo_submit.REST_PACED, echo_submit.REST_FAST
REST, STACK = rest_submit.CASE, dev_stack.CASE

TABLES = (
    Table(
        "submit",
        "SubmitTask, one task a call",
        (ECHO, LEAST, SUBMIT, FASTAPI, BARE),
        (
            Ratio("throughput, beside the echo", SUBMIT, ECHO, rate, at_least=0.55),
            Ratio("server CPU a call, beside the echo", SUBMIT, ECHO, SERVER, at_most=1.5),
            Ratio("throughput of the least that stores a task, beside the echo", LEAST, ECHO, rate),
            Ratio("its server CPU a call, beside the echo", LEAST, ECHO, SERVER),
            Ratio("throughput, beside FastAPI + motor", SUBMIT, FASTAPI, rate, at_least=1.8),
            Ratio("CPU of server and database a call, beside FastAPI + motor", SUBMIT, FASTAPI, BEHIND, at_most=0.55),
            Ratio("throughput, beside the same without an index", SUBMIT, BARE, rate, at_least=1.8),
            Ratio(
                "CPU of server and database a call, beside the same without an index",
                SUBMIT,
                BARE,
                BEHIND,
                at_most=0.55,
            ),
        ),
    ),
    Table(
        "get",
        "GetTask",
        (ECHO, GET),
        (Ratio("server CPU a call, beside the echo", GET, ECHO, SERVER, at_most=2.0),),
    ),
    Table(
        "backlog",
        "SubmitTask and a drain, with 100,000 tasks waiting and with none",
        (SUBMIT, SUBMIT_BEHIND, DRAIN, DRAIN_BEHIND),
        (
            Ratio("server CPU a submit, with a backlog", SUBMIT_BEHIND, SUBMIT, SERVER, at_most=1.15),
            Ratio("server CPU a task drained, with a backlog", DRAIN_BEHIND, DRAIN, SERVER, at_most=1.15),
            Ratio("database CPU a submit, with a backlog", SUBMIT_BEHIND, SUBMIT, DATABASE),
            Ratio("database CPU a task drained, with a backlog", DRAIN_BEHIND, DRAIN, DATABASE),
        ),
    ),
    Table(
        "sign-in",
        f"Right sign-ins while {sign_in.WRONG:,} wrong secrets for the same workspace arrive, and in between",
        (sign_in.OFTEN, sign_in.SELDOM),
        goals=[
            Goal(f"{kind}, attacked beside quiet, {case.title}", case, more(figure), "×", 1.2)
            for case in (sign_in.OFTEN, sign_in.SELDOM)
            for kind, figure in (("median", "times_p50"), ("mean", "times_mean"))
        ],
        columns=(
            *(
                Column(f"{title}, {kind}", more(f"{kind}_{figure}"), form)
                for title, figure, form in (
                    ("right ones", "count", "{:,.0f}"),
                    ("p50 ms", "p50_ms", "{:.2f}"),
                    ("mean ms", "mean_ms", "{:.2f}"),
                    ("p99 ms", "p99_ms", "{:.1f}"),
                )
                for kind in ("quiet", "attacked")
            ),
            Column("longest ms", more("longest_ms"), "{:.0f}"),
            Column("median ×", more("times_p50")),
            Column("mean ×", more("times_mean")),
            Column("wrong ones turned away, %", more("turned_away_percent"), "{:.1f}"),
            Column("wrong ones answered in quiet windows, %", more("quiet_answers_percent"), "{:.1f}"),
        ),
        plot=Plot(
            "mean milliseconds",
            "ms",
            (
                Part("quiet", BLUE, more("quiet_mean_ms")),
                Part("more while attacked", AMBER, less(more("attacked_mean_ms"), more("quiet_mean_ms"))),
            ),
        ),
        method=(
            f"In each run {sign_in.WRONG:,} wrong secrets arrive, in every other {sign_in.WINDOW_SECONDS:g} s, and "
            "right sign-ins are made one at a time all through. One counts in the window in which it began: not in the "
            f"first {GAP_SECONDS:g} s of it, nor if it ended in another. The multiples are taken between neighbouring "
            "windows, and the median pair's are shown; all other figures are over all windows of a kind."
        ),
    ),
    Table(
        "batch",
        "Tasks submitted in batches",
        (BATCH, INSERT),
        (
            Ratio("tasks a second, beside the bare script", BATCH, INSERT, rate, at_least=0.8),
            Ratio("database CPU a task, beside the bare script", BATCH, INSERT, DATABASE),
        ),
    ),
    Table(
        "drain",
        "Queued tasks that do nothing, done by one Python worker",
        (DRAIN, *peer_drain.CASES, BARE_DRAIN),
        (
            *(
                Ratio(f"tasks a second, beside {name}", DRAIN, case, rate, at_least=1.2)
                for name, case in zip(("arq", "procrastinate", "Celery"), peer_drain.CASES, strict=True)
            ),
            Ratio("tasks a second, beside the bare script", DRAIN, BARE_DRAIN, rate, at_least=0.7),
            Ratio("database CPU a task, beside the bare script", DRAIN, BARE_DRAIN, DATABASE),
        ),
        columns=(
            Column("tasks/s", rate, "{:,.0f}"),
            Column("worker CPU ms", LOAD),
            Column("server CPU ms", SERVER),
            Column("database CPU ms", DATABASE),
            Column("all CPU ms", cpu("load", "server", "database")),
        ),
        plot=Plot(
            "CPU milliseconds for one",
            "ms",
            (Part("worker", PLUM, LOAD), Part("server", BLUE, SERVER), Part("database", GREEN, DATABASE)),
            rate=True,
        ),
    ),
    Table(
        "latency",
        "One task at a time, on an idle system",
        (LATENCY, *peer_latency.CASES, *floors.CASES),
        goals=(
            Goal("submit → start in the worker, p50", LATENCY, START, "ms", 3),
            Goal("submit → start in the worker, p99", LATENCY, more("start_p99_ms"), "ms", 8),
            Goal("submit → result in the client, p50", LATENCY, RESULT, "ms", 5),
            Goal("submit → result in the client, p99", LATENCY, more("result_p99_ms"), "ms", 12),
        ),
        columns=(
            Column("start p50 ms", START),
            Column("start p99 ms", more("start_p99_ms")),
            Column("result p50 ms", RESULT),
            Column("result p99 ms", more("result_p99_ms")),
            Column("server CPU ms", SERVER),
            Column("database CPU ms", DATABASE),
            Column("worker CPU ms", cpu("worker")),
        ),
        plot=Plot(
            "milliseconds of the median one",
            "ms",
            (Part("to its start", BLUE, START), Part("from there to its result", AMBER, less(RESULT, START))),
        ),
        method=(
            f"In each run up to {openmcp_latency.CALLS:,} tasks, each submitted when the result of the one before is "
            "there and the system has been at rest for 10 to 30 ms. All times begin when the client is told to submit. "
            "CPU times are for one task. The last three are no tasks: what one round trip takes, of which a task has "
            "several; each is measured cold, so that together they may be more than a task takes. The bound is the "
            "least."
        ),
    ),
    Table(
        "events",
        "An event's way from the transition to a subscriber, one at a time",
        (EVENT, EVENT_OTHER, EVENT_LEAST, CHANGE_STREAM),
        goals=(
            Goal("same process, p50", EVENT, BEGUN, "ms", 3),
            Goal("another process, p50, beyond the change stream's own", EVENT_OTHER, BEGUN, "ms", 3, CHANGE_STREAM),
            Goal("the same, by the least", EVENT_LEAST, BEGUN, "ms", beyond=CHANGE_STREAM),
        ),
        columns=(
            Column("p50 ms since it was begun", BEGUN),
            Column("p99 ms", more("begun_p99_ms")),
            Column("p50 ms since it was acknowledged", ACKNOWLEDGED),
            Column("p99 ms", more("acknowledged_p99_ms")),
            Column("server CPU ms", SERVER),
            Column("database CPU ms", DATABASE),
        ),
        plot=Plot(
            "milliseconds since it was begun",
            "ms",
            (
                Part("p50", BLUE, BEGUN),
                Part("from there to p99", AMBER, less(more("begun_p99_ms"), BEGUN)),
            ),
        ),
        method=(
            f"In each run up to {events.CALLS:,} times: a task is queued, somebody follows its events, all is at rest "
            "for 10 to 30 ms, the task is cancelled. An event is begun half a millisecond after the time that it "
            "bears, which is in whole milliseconds, rounded down: its durable write counts. It is acknowledged when "
            "the one who cancelled has the answer, which may be after the subscriber has the event. A signal is begun "
            "when its insert is. CPU times are for one event, with its submit and its stream."
        ),
    ),
    Table(
        "streams",
        "Event streams that are open and idle",
        (STREAMS_NONE, STREAMS, STREAMS_SSE),
        goals=(
            Goal("server memory each, StreamTaskEvents", STREAMS, more("kib"), "KiB", 60),
            Goal("server memory each, Server-Sent Events", STREAMS_SSE, more("kib"), "KiB", 60),
            Goal(
                "server CPU a second, StreamTaskEvents, beyond none",
                STREAMS,
                cpu_a_second("server"),
                "ms",
                5,
                STREAMS_NONE,
            ),
        ),
        columns=(
            Column("server memory each, KiB", more("kib"), "{:.1f}"),
            *(
                Column(f"{name} CPU ms a second", cpu_a_second(name), "{:.1f}")
                for name in ("server", "database", "load")
            ),
        ),
        plot=Plot(
            "CPU milliseconds a second",
            "ms",
            (
                Part("server", BLUE, cpu_a_second("server")),
                Part("database", GREEN, cpu_a_second("database")),
                Part("load generator", GREY, cpu_a_second("load")),
            ),
        ),
        method=(
            f"In each run {idle_streams.STREAMS:,} tasks wait on a fresh database, each with a stream of its own or "
            f"all with none, for {idle_streams.SECONDS:.0f} s; a pinged stream is pinged every {PING_SECONDS:.0f} s. "
            "Memory is by how much the server has grown since before the first stream. A thousand CPU milliseconds a "
            "second are one core."
        ),
    ),
    Table(
        "servers",
        "SubmitTask with one server process and with two",
        (SUBMIT, SUBMIT_TWO, TWO_TOLD, TWO_SHARED, LEAST, LEAST_TWO, LEAST_TOLD, LEAST_SHARED, LEAST_APART),
        (
            Ratio("CPU of the servers a call, beside one", SUBMIT_TWO, SUBMIT, SERVER, at_most=1.1),
            Ratio("the same, each told of the other's tasks", TWO_TOLD, SUBMIT, SERVER, at_most=1.1),
            Ratio("the same as the first, with half the callers", TWO_SHARED, SUBMIT, SERVER, at_most=1.1),
            Ratio("two of the least that stores a task, beside one of them", LEAST_TWO, LEAST, SERVER),
            Ratio("the same, each told of the other's tasks", LEAST_TOLD, LEAST, SERVER),
            Ratio("two of the least with half the callers", LEAST_SHARED, LEAST, SERVER),
            Ratio("the same as the one before, each with a database of its own", LEAST_APART, LEAST, SERVER),
            Ratio("database CPU a call, beside one", SUBMIT_TWO, SUBMIT, DATABASE),
            Ratio("throughput, beside one", SUBMIT_TWO, SUBMIT, rate),
        ),
    ),
    Table(
        "rest",
        "A submit by REST through Envoy and by native gRPC",
        (
            *(SUBMIT, REST, SUBMIT_PACED, REST_PACED, SUBMIT_FAST, REST_FAST),
            *(ECHO, ECHO_REST, ECHO_PACED, ECHO_REST_PACED, ECHO_FAST, ECHO_REST_FAST),
        ),
        (
            *(
                Ratio(f"server CPU a call, beside native gRPC, {rate:,} a second of each", of, to, SERVER, at_most=1.05)
                for rate, of, to in zip(
                    openmcp_submit.RATES, (REST_PACED, REST_FAST), (SUBMIT_PACED, SUBMIT_FAST), strict=True
                )
            ),
            Ratio("the same, each as fast as it goes", REST, SUBMIT, SERVER, at_most=1.05),
            *(
                Ratio(f"the echo's, {rate:,} a second of each", of, to, SERVER)
                for rate, of, to in zip(
                    openmcp_submit.RATES, (ECHO_REST_PACED, ECHO_REST_FAST), (ECHO_PACED, ECHO_FAST), strict=True
                )
            ),
            Ratio("the echo's, each as fast as it goes", ECHO_REST, ECHO, SERVER),
            Ratio("throughput, beside native gRPC", REST, SUBMIT, rate),
        ),
        columns=(*CALLS[:2], Column("Envoy CPU ms", ENVOY), *CALLS[2:]),
    ),
    Table(
        "stack",
        "openmcp dev: its start and its memory",
        (STACK,),
        goals=(
            Goal("start to ready", STACK, seconds, "s", 5),
            Goal("memory of all, idle", STACK, more(*(f"{part}_mb" for part in dev_stack.PARTS)), "MB", 600),
        ),
        columns=(
            Column("ready, s", seconds),
            Column("all, MB", more(*(f"{part}_mb" for part in dev_stack.PARTS)), "{:.0f}"),
            *(Column(f"{part}, MB", more(f"{part}_mb"), "{:.0f}") for part in dev_stack.PARTS),
            Column("idle CPU ms a second", more("idle_cpu_ms"), "{:.1f}"),
        ),
        plot=Plot(
            "megabytes when it is idle",
            "MB",
            [
                Part(part, colour, more(f"{part}_mb"))
                for part, colour in zip(dev_stack.PARTS, (BLUE, GREEN, AMBER, PLUM, GREY), strict=True)
            ],
            form="{:.0f}",
        ),
        method=(
            "In each run it is started on an empty folder, without the sample task; its modules were compiled by a "
            "start before. It is ready when a call with a token gets through Envoy and the server to the database, and "
            "the worker is connected. Memory is what each process has alone, and its part of what several share (PSS)."
        ),
    ),
)
