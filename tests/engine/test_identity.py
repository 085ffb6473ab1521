"""Identity and tokens: who may sign in, how keys are shared between processes, and when a token ends."""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from support.engine import Engine
from support.service import LOCAL, SETTINGS, ManualClock

from openmcp_chain.domain import errors
from openmcp_chain.domain.keys import CLOCK_SKEW, LIFETIME
from openmcp_chain.domain.workspace import Kind, Quotas, Scope, SigningKey, State
from openmcp_chain.engine import identity, keys, tokens
from openmcp_chain.engine.sealing import MasterKey
from openmcp_chain.engine.tokens import Tokens
from openmcp_chain.engine.workspaces import WORKER_TYPE_CHARACTERS, WORKER_TYPES
from openmcp_chain.store.memory import MemoryStore


async def signed_in(engine: Engine, plan: str = "standard") -> tuple[str, str, str]:
    """Workspace id, secret, token."""
    await engine.app.tokens.keys.load()
    created, secret = await engine.app.administration.workspaces.create(LOCAL, plan)
    token = (await engine.app.identity.authenticate(created.id, secret)).token
    return created.id, secret, token


async def test_token_says_who_bears_it() -> None:
    """The principal of a token is the workspace that it was issued to, with its plan and scopes."""
    engine = Engine()
    workspace_id, _, token = await signed_in(engine)
    principal = await engine.app.identity.check(token, Scope.TASKS_READ)
    assert (principal.workspace, principal.plan, principal.scopes) == (workspace_id, "standard", Kind.TENANT.scopes)


async def test_wrong_credentials_are_all_alike() -> None:
    """Unknown workspace, wrong secret, malformed ids and a disabled workspace: one and the same error."""
    engine = Engine()
    workspace_id, secret, _ = await signed_in(engine)
    other = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    told = set()
    for who, what in (
        (workspace_id, other),
        (workspace_id, "x" * 100_000),
        (workspace_id, "omcp_ü"),
        ("nobody", secret),
        ("../../x", secret),
        ("$ne", secret),
    ):
        with pytest.raises(errors.CredentialsInvalid) as caught:
            await engine.app.identity.authenticate(who, what)
        told.add(caught.value.message)
    known = await engine.store.get_workspace(workspace_id)
    assert known
    await engine.store.put_workspace(replace(known, state=State.DISABLED, version=known.version + 1))
    with pytest.raises(errors.CredentialsInvalid) as caught:
        await engine.app.identity.authenticate(workspace_id, secret)
    assert told == {caught.value.message}


async def test_two_secrets_work_during_a_rotation() -> None:
    """Old and new secret both sign in, whatever is tried again; with the old one end the tokens got with it."""
    engine = Engine()
    workspace_id, first, token = await signed_in(engine)
    _, second = await engine.app.administration.secrets.rotate(LOCAL, workspace_id)
    for secret in (first, second):
        await engine.app.identity.authenticate(workspace_id, secret)
    with pytest.raises(errors.TooManySecrets):
        await engine.app.administration.secrets.rotate(LOCAL, workspace_id)
    engine.app.identity._recalled.clear()  # as RECALL_SECONDS do
    await engine.app.identity.check(token, None)
    await engine.app.administration.secrets.rotate(LOCAL, workspace_id, timedelta())
    with pytest.raises(errors.CredentialsInvalid):
        await engine.app.identity.authenticate(workspace_id, first)
    engine.app.identity._recalled.clear()  # as RECALL_SECONDS do
    with pytest.raises(errors.TokenInvalid):
        await engine.app.identity.check(token, None)


async def test_disabled_workspace_is_believed_no_longer_than_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace's state is read again after RECALL_SECONDS: then its tokens end."""
    engine = Engine()
    workspace_id, _, token = await signed_in(engine)
    await engine.app.identity.check(token, None)
    known = await engine.store.get_workspace(workspace_id)
    assert known
    await engine.store.put_workspace(replace(known, state=State.DISABLED, version=known.version + 1))
    await engine.app.identity.check(token, None)
    monkeypatch.setattr(identity, "RECALL_SECONDS", 0.0)
    with pytest.raises(errors.TokenInvalid):
        await engine.app.identity.check(token, None)


async def test_what_is_given_counts_at_once() -> None:
    """A token got with a new secret, or by a workspace that was let in again, is good though the state is remembered.

    The other way round, RECALL_SECONDS are what it takes.
    """
    engine = Engine()
    workspace_id, _, token = await signed_in(engine)
    await engine.app.identity.check(token, None)
    _, secret = await engine.app.administration.secrets.rotate(LOCAL, workspace_id)
    token = (await engine.app.identity.authenticate(workspace_id, secret)).token
    await engine.app.identity.check(token, None)
    known = await engine.store.get_workspace(workspace_id)
    assert known
    await engine.store.put_workspace(replace(known, state=State.DISABLED, version=known.version + 1))
    engine.app.identity._recalled.clear()  # as RECALL_SECONDS do
    with pytest.raises(errors.TokenInvalid):
        await engine.app.identity.check(token, None)
    await engine.store.put_workspace(replace(known, version=known.version + 2))
    await engine.app.identity.check(token, None)


async def test_token_expires_by_the_servers_clock() -> None:
    """A token is good for its lifetime and the allowed skew, then TOKEN_EXPIRED, whether seen before or not."""
    clock = ManualClock()
    engine, other = Engine(now=clock), Engine(now=clock)
    other.store = engine.store
    _, _, token = await signed_in(engine)
    clock.advance(LIFETIME.total_seconds())
    await engine.app.identity.check(token, None)
    clock.advance(CLOCK_SKEW.total_seconds())
    fresh = Tokens(engine.store, SETTINGS.master, clock)
    await fresh.keys.load()
    for checker in (engine.app.tokens, fresh):
        with pytest.raises(errors.TokenExpired):
            await checker.check(token)


async def test_what_outlives_a_check_ends_with_its_token() -> None:
    """`recheck` says TOKEN_EXPIRED as soon as `check` would: a stream gains nothing by being open."""
    clock = ManualClock()
    engine = Engine(now=clock)
    _, _, token = await signed_in(engine)
    principal = await engine.app.identity.check(token, None)
    clock.advance(LIFETIME.total_seconds())
    await engine.app.identity.recheck(principal)
    clock.advance(CLOCK_SKEW.total_seconds())
    with pytest.raises(errors.TokenExpired):
        await engine.app.identity.recheck(principal)


async def test_token_of_a_clock_far_ahead_is_refused() -> None:
    """A token issued in what is the future here, beyond the skew, is not valid."""
    ahead, clock = ManualClock(), ManualClock()
    ahead.advance(CLOCK_SKEW.total_seconds() + 5)
    engine = Engine(now=ahead)
    _, _, token = await signed_in(engine)
    here = Tokens(engine.store, SETTINGS.master, clock)
    await here.keys.load()
    with pytest.raises(errors.TokenInvalid):
        await here.check(token)
    clock.advance(10)
    await here.check(token)


async def test_processes_that_start_at_once_publish_each_others_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two first processes may each make a key: soon both publish both, and each takes the other's tokens."""
    store = MemoryStore()
    one, two = Engine(store), Engine(store)
    await one.app.tokens.keys.load()
    await store.add_key(two.app.tokens.keys._new_key(two.app.tokens.keys._clock()))
    await two.app.tokens.keys.load()
    monkeypatch.setattr(keys, "KEYS_EVERY_SECONDS", 0.0)
    sets = [json.loads(await engine.app.tokens.keys.key_set()) for engine in (one, two)]
    assert sets[0] == sets[1]
    assert len(sets[0]["keys"]) == 2
    created, secret = await one.app.administration.workspaces.create(LOCAL, "free")
    for issuer, checker in ((one, two), (two, one)):
        token = (await issuer.app.identity.authenticate(created.id, secret)).token
        assert (await checker.app.identity.check(token, None)).workspace == created.id


async def test_new_key_is_published_before_it_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key signs from `signs_from` on, in processes that run already; before, it is only published."""
    monkeypatch.setattr(keys, "KEYS_EVERY_SECONDS", 0.0)
    clock = ManualClock()
    engine = Engine(now=clock)
    _, _, first = await signed_in(engine)
    key = engine.app.tokens.keys._new_key(clock() + timedelta(seconds=60))
    await engine.store.add_key(key)
    assert key.kid in (await engine.app.tokens.keys.key_set()).decode()
    workspace = (await engine.store.list_workspaces("", 1))[0]
    before = (await engine.app.tokens.issue(workspace, workspace.secrets[0].id)).token
    clock.advance(61)
    after = (await engine.app.tokens.issue(workspace, workspace.secrets[0].id)).token
    assert [_kid(token) == key.kid for token in (first, before, after)] == [False, False, True]
    for token in (first, before, after):
        await engine.app.identity.check(token, None)


class SlowKeys(MemoryStore):
    """Gives its keys when it is let; None lets it fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = asyncio.Event()
        self.gate.set()
        self.reads = 0
        self.began = asyncio.Event()

    async def list_keys(self) -> Sequence[SigningKey]:
        self.reads += 1
        self.began.set()
        if self.gate is None:
            raise errors.Unavailable
        await self.gate.wait()
        return await super().list_keys()


async def rotated() -> tuple[SlowKeys, Tokens, list[str]]:
    """A store, a process that has not looked for keys lately, and tokens signed by another with a key made since."""
    store, clock = SlowKeys(), ManualClock()
    engine = Engine(store, clock)
    await engine.app.tokens.keys.load()
    behind = Tokens(store, SETTINGS.master, clock)
    await behind.keys.load()
    clock.advance(1)
    await store.add_key(engine.app.tokens.keys._new_key(clock()))
    await engine.app.tokens.keys.load()
    created, _ = await engine.app.administration.workspaces.create(LOCAL, "free")
    signed = [(await engine.app.tokens.issue(created, created.secrets[0].id)).token for _ in range(3)]
    behind.keys._refreshed = float("-inf")  # as KEYS_EVERY_SECONDS do
    store.reads = 0
    store.began.clear()
    return store, behind, signed


async def test_first_tokens_of_a_new_key_are_all_good() -> None:
    """Tokens of a key that is new here, checked at once: all wait for one read of the keys, and none is refused.

    One whose caller gives up meanwhile takes nobody with it.
    """
    store, behind, signed = await rotated()
    store.gate = asyncio.Event()
    checks = [asyncio.create_task(behind.check(token)) for token in signed]
    await store.began.wait()
    checks[0].cancel()
    store.gate.set()
    told = await asyncio.gather(*checks, return_exceptions=True)
    assert isinstance(told[0], asyncio.CancelledError)
    assert not any(isinstance(answer, BaseException) for answer in told[1:])
    assert store.reads == 1


async def test_key_that_cannot_be_read_is_no_bad_token() -> None:
    """While the keys can't be read, a token of an unknown key may be good: UNAVAILABLE, each time; then it is taken."""
    store, behind, signed = await rotated()
    gate, store.gate = store.gate, None
    for token in signed:
        with pytest.raises(errors.Unavailable):
            await behind.check(token)
    store.gate = gate
    for token in signed:
        await behind.check(token)
    assert store.reads == len(signed) + 1


async def test_first_key_signs_even_where_the_clock_is_behind() -> None:
    """A process whose clock is behind that of the one which made the only key starts, and signs with it."""
    ahead = ManualClock()
    ahead.advance(30)
    engine = Engine(now=ahead)
    await engine.app.tokens.keys.load()
    behind = Tokens(engine.store, SETTINGS.master, ManualClock())
    await behind.keys.load()
    created, _ = await engine.app.administration.workspaces.create(LOCAL, "free")
    token = (await behind.issue(created, created.secrets[0].id)).token
    assert (await behind.check(token)).workspace == created.id


async def test_key_set_holds_nothing_private() -> None:
    """What is published of a key is public: no `d`, and nothing sealed."""
    engine = Engine()
    await engine.app.tokens.keys.load()
    (key,) = json.loads(await engine.app.tokens.keys.key_set())["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}


async def test_another_master_key_is_told_at_the_start() -> None:
    """A process with another master key than its database's does not start, and the key is not in what it says."""
    engine = Engine()
    await engine.app.tokens.keys.load()
    with pytest.raises(ValueError, match="OPENMCP_MASTER_KEY") as caught:
        await Tokens(engine.store, MasterKey(b"z" * 32), ManualClock()).keys.load()
    assert base64.b64encode(b"z" * 32).decode() not in str(caught.value)


async def test_remembered_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens are seen, only so many are remembered."""
    monkeypatch.setattr(tokens, "CACHED_TOKENS", 3)
    engine = Engine()
    await engine.app.tokens.keys.load()
    created, _ = await engine.app.administration.workspaces.create(LOCAL, "free")
    issued = [(await engine.app.tokens.issue(created, created.secrets[0].id)).token for _ in range(6)]
    await asyncio.gather(*(engine.app.tokens.check(token) for token in issued))
    assert len(engine.app.tokens._seen) == 3


async def test_remembered_workspaces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many workspaces call, the state of only so many is remembered: of those that were read last."""
    monkeypatch.setattr(identity, "RECALLED_WORKSPACES", 3)
    engine = Engine()
    made = []
    for _ in range(6):
        workspace_id, _, token = await signed_in(engine)
        await engine.app.identity.check(token, None)
        made.append(workspace_id)
    assert list(engine.app.identity._recalled) == made[-3:]


async def test_names_that_strangers_guess_are_not_remembered() -> None:
    """Or they would push out those who are there, and each call of these would be a read."""
    engine = Engine()
    workspace_id, _, token = await signed_in(engine)
    await engine.app.identity.check(token, None)
    for name in ("nobody", "anybody", workspace_id):
        with pytest.raises(errors.CredentialsInvalid):
            await engine.app.identity.authenticate(name, "wrong")
    assert list(engine.app.identity._recalled) == [workspace_id]


async def test_weight_is_that_of_the_plan_while_it_is_remembered() -> None:
    """A workspace that has called weighs what its plan says; one that is unknown, or has a plan that is gone, 1."""
    engine = Engine()
    workspace_id, _, token = await signed_in(engine, "standard")
    engine.app.identity._recalled.clear()  # that it has signed in
    assert engine.app.identity.weight(workspace_id) == 1
    await engine.app.identity.check(token, None)
    assert engine.app.identity.weight(workspace_id) == SETTINGS.plans["standard"].weight > 1
    with pytest.raises(errors.TokenInvalid):
        await engine.app.identity.recheck(replace(await engine.app.tokens.check(token), workspace="gone"))
    assert engine.app.identity.weight("gone") == 1
    engine.app.identity._plans = {"free": SETTINGS.plans["free"]}
    assert engine.app.identity.weight(workspace_id) == 1


async def test_operator_gets_the_plan_that_allows_most() -> None:
    """Whatever the plans file calls its plans: an operator's is the one with most calls, then with most streams."""
    engine = Engine()
    for names, best in ((["free", "standard"], "standard"), (["free", "unlimited", "standard"], "unlimited")):
        engine.app.administration.workspaces._plans = {name: SETTINGS.plans[name] for name in names}
        created, _ = await engine.app.administration.workspaces.create_operator(LOCAL, ["echo"])
        assert created.plan == best


async def test_an_operators_token_is_taken_however_many_types_it_names() -> None:
    """As many and as long ones as an operator may have, with the longest id; more make none, by no way."""
    engine = Engine()
    await engine.app.keys.load()
    workspaces = engine.app.administration.workspaces
    most = [f"t{number:031}" for number in range(WORKER_TYPES)]
    assert sum(map(len, most)) == WORKER_TYPE_CHARACTERS
    created, secret = await workspaces.create_operator(LOCAL, most, "o" * 64)
    issued = await engine.app.identity.authenticate(created.id, secret)
    assert (await engine.app.identity.check(issued.token, Scope.WORKER)).worker_types == set(most)
    for wrong, field in (
        ([*most[1:], "t" * 33], "worker_types"),
        ([*most, "t"], "worker_types"),
        (["1"], "worker_types[0]"),
    ):
        with pytest.raises(errors.InvalidArgument) as refused:
            await workspaces.create_operator(LOCAL, wrong)
        assert [violation.field for violation in refused.value.violations] == [field]


async def test_plan_that_is_gone_counts_as_the_smallest() -> None:
    """A token whose plan is no longer in the file is served by the plan with the fewest calls."""
    engine = Engine()
    _, _, token = await signed_in(engine, "unlimited")
    principal = await engine.app.identity.check(token, None)
    unlimited, free = SETTINGS.plans["unlimited"], SETTINGS.plans["free"]
    assert engine.app.identity.quotas(principal) == Quotas(unlimited.pending_tasks, unlimited.streams)
    gone = replace(principal, workspace="not heard of", plan="gone")
    assert engine.app.identity.quotas(gone) == Quotas(free.pending_tasks, free.streams)


async def test_a_workspaces_own_quotas_go_before_its_plans() -> None:
    """What is set for the workspace itself counts from when it is next read; what is not, is the plan's."""
    engine = Engine()
    workspace_id, _, token = await signed_in(engine, "free")
    known = await engine.store.get_workspace(workspace_id)
    assert known
    await engine.store.put_workspace(replace(known, plan="standard", quotas=Quotas(streams=3), version=2))
    engine.app.identity._recalled.clear()  # as RECALL_SECONDS do
    principal = await engine.app.identity.check(token, None)
    assert principal.plan == "free"
    assert engine.app.identity.quotas(principal) == Quotas(SETTINGS.plans["standard"].pending_tasks, 3)


def _kid(token: str) -> str:
    header = token.partition(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(header + "=="))["kid"]
    return kid
