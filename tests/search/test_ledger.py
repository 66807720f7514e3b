import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from moe_search.search import lease as lease_module
from moe_search.search import optuna_table
from moe_search.search.lease import new_lease
from moe_search.search.ledger import MAX_ATTEMPTS, MAX_LOSSES, Claim, Ledger
from moe_search.search.problem import Problem
from moe_search.search.suggest import suggest
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.errors import InvalidInputError, ResourceError
from moe_search.spaces.run import Run


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "journal":
        return str(tmp_path / "campaign" / "journal.log")
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/campaign.db"
    return str(request.getfixturevalue("postgresql"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"campaign of {request.node.name}"  # studies of several tests share one database


@pytest.fixture
def ledger(storage: str, name: str, problem: Problem) -> Ledger:
    return Ledger(storage, name=name, problem=problem)


@pytest.fixture
def journal(tmp_path: Path, problem: Problem) -> Ledger:
    return Ledger(tmp_path / "journal.log", problem=problem)


def propose(ledger: Ledger, n: int = 1) -> None:
    for proposal in suggest(ledger.problem, (), ledger.rows(), n=n):
        assert ledger.append(proposal, number=len(ledger.rows()))


def claimed(ledger: Ledger, owner: str = "somebody") -> Claim:
    claim = ledger.claim(owner)
    assert claim is not None
    return claim


def runs_of(world: SimulatedWorld, claim: Claim) -> list[Run]:
    return world.evaluate(claim.trial, lambda loss, tokens: None)


def test_a_trial_goes_from_proposal_to_result(ledger: Ledger, world: SimulatedWorld, storage: str, name: str) -> None:
    propose(ledger, 2)
    claim = claimed(ledger)
    assert claim.trial.number == 0
    assert claim.token == 1
    ledger.report(claim, 5.5, 1000)
    lease, losses = ledger.progress()[0]
    assert lease is not None
    assert lease.owner == "somebody"
    assert losses == {1000: 5.5}
    runs = runs_of(world, claim)
    assert ledger.commit(claim, runs)

    rows = Ledger(storage, name=name).rows()  # what another process reads
    assert [row.state for row in rows] == ["finished", "waiting"]
    assert list(rows[0].runs) == runs
    assert rows[0].trial == claim.trial
    assert rows[0].settled_flops == pytest.approx(claim.trial.predicted_cost)

    frozen = ledger.study.trials
    assert [trial.state for trial in frozen] == [TrialState.COMPLETE, TrialState.WAITING]
    assert frozen[0].value == runs[-1].bpb
    assert frozen[0].params["tokens"] == claim.trial.scale.tokens
    assert frozen[0].params["weight/code"] == claim.trial.design.mixture["code"]
    assert frozen[0].distributions == frozen[1].distributions
    assert frozen[0].user_attrs["reason"].startswith("initial design")


@pytest.mark.parametrize("storage", ["journal", "sqlite"], indirect=True)  # PostgreSQL knows no such moment
def test_a_result_written_but_not_told_is_told_by_whoever_comes(
    ledger: Ledger, world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(ledger, 2)
    claim = claimed(ledger)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna_table.OptunaTable, "_tell", killed)
        with pytest.raises(KeyboardInterrupt):
            ledger.commit(claim, runs_of(world, claim))
    assert ledger.rows()[0].state == "finished"
    assert ledger.study.trials[0].state == TrialState.RUNNING
    assert claimed(ledger).trial.number == 1
    assert ledger.study.trials[0].state == TrialState.COMPLETE


def test_a_released_trial_is_resumed_as_itself_with_the_next_token(ledger: Ledger) -> None:
    propose(ledger)
    first = claimed(ledger)
    assert ledger.claim("another") is None
    ledger.release(first)
    second = claimed(ledger, "another")
    assert second.trial == first.trial
    assert second.token == 2
    assert not ledger.refresh(first)
    assert ledger.refresh(second)
    ledger.release(first)  # too late: not his any more
    assert ledger.claim("third") is None


def test_an_expired_lease_is_lost_and_a_renewed_one_is_not(
    tmp_path: Path, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1e9)
    for module in (lease_module, optuna_table):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: clock.now))
    ledger = Ledger(tmp_path / "journal.log", problem=problem, lease_seconds=30)
    propose(ledger)
    first = claimed(ledger)
    for _ in range(4):
        clock.now += 10
        assert ledger.refresh(first)
    clock.now += 29
    assert ledger.claim("another") is None
    clock.now += 1
    assert claimed(ledger, "another").token == 2


def test_the_lease_of_a_dead_process_is_lost_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    lease = new_lease("somebody", 1, 100.0).replace(pid=process.pid, process_started=started)
    assert lease.is_held()
    assert not lease.replace(process_started="1").is_held()  # the number belongs to another process now
    assert lease.replace(process_started="1", host="elsewhere").is_held()  # of which we know nothing
    process.kill()
    process.wait()
    assert not lease.is_held()


def test_the_first_result_wins_whoever_brings_it(ledger: Ledger, world: SimulatedWorld) -> None:
    propose(ledger)
    slow = claimed(ledger)
    ledger.release(slow)
    fast = claimed(ledger, "another")
    late = runs_of(world, slow)
    assert ledger.commit(slow, late)  # under an old token, but the first
    assert not ledger.commit(fast, late)
    assert len(ledger.rows()) == 1


def test_diverged_is_a_result_and_an_exception_is_not(ledger: Ledger, problem: Problem, world: SimulatedWorld) -> None:
    propose(ledger, 2)
    diverging = world.replace(diverging=1.0)
    claim = claimed(ledger)
    assert ledger.commit(claim, runs_of(diverging, claim))
    assert ledger.study.trials[0].state == TrialState.PRUNED
    assert ledger.study.trials[0].user_attrs["status"] == "diverged"
    assert ledger.rows()[0].settled_flops < claim.trial.predicted_cost

    for attempt in range(MAX_ATTEMPTS):
        claim = claimed(ledger)
        assert claim.trial.number == 1
        assert claim.token == attempt + 1
        assert ledger.fail(claim, f"attempt {attempt}") == (attempt < MAX_ATTEMPTS - 1)
    row = ledger.rows()[1]
    assert (row.state, row.message) == ("failed", f"attempt {MAX_ATTEMPTS - 1}")
    assert row.settled_flops == claim.trial.predicted_cost
    assert ledger.study.trials[1].state == TrialState.FAIL
    assert not ledger.commit(claim, runs_of(world, claim))
    assert ledger.claim("anybody") is None


def test_a_trial_that_kills_its_workers_is_given_up(journal: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    propose(journal)
    monkeypatch.setattr("moe_search.search.lease.Lease.is_held", lambda *_: False)
    for _ in range(MAX_LOSSES + 1):
        journal.claim("victim")
    assert "lost" in journal.rows()[0].message


def test_a_number_is_given_once(ledger: Ledger, problem: Problem) -> None:
    first, second = suggest(problem, (), (), n=2)
    assert ledger.append(first, number=0)
    assert not ledger.append(second, number=0)
    assert [row.trial.proposal for row in ledger.rows()] == [first]


def test_another_specification_is_refused_by_name(ledger: Ledger, storage: str, name: str, problem: Problem) -> None:
    assert Ledger(storage, name=name, problem=problem).problem == problem
    with pytest.raises(InvalidInputError, match=r"seed: 0 there, 5 here"):
        Ledger(storage, name=name, problem=problem.replace(seed=5))
    spec = {**problem.model_dump(mode="json"), "training": {"decay": 0.1}}
    with pytest.raises(InvalidInputError, match=r"training\.decay: \(absent\) there, 0\.1 here"):
        Ledger(storage, name=name, problem=problem, spec=spec)


def test_no_campaign_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="there is no campaign 'mine'"):
        Ledger(tmp_path / "journal.log", name="mine")


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("mysql://me:secret@host/database", r"mysql://me:\*\*\*@host/database is not supported"),
        ("sqlite://", "is not supported"),
        ("nonsense://", "cannot be read|not supported"),
    ],
)
def test_unsupported_storage(storage: str, message: str, problem: Problem) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        Ledger(storage, problem=problem)
    assert "secret" not in str(caught.value)


def test_unreachable_storage(tmp_path: Path, problem: Problem) -> None:
    with pytest.raises(ResourceError, match=r"me:\*\*\*@127") as caught:
        Ledger("postgresql+psycopg://me:secret@127.0.0.1:1/nowhere?connect_timeout=2", problem=problem)
    assert "secret" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="File exists"):
        Ledger(tmp_path / "file" / "journal.log", problem=problem)
    (tmp_path / "file").write_text("something else\n" * 3)
    with pytest.raises(InvalidInputError, match="is not an Optuna journal"):
        Ledger(tmp_path / "file", problem=problem)


def test_a_torn_line_is_dropped_and_nothing_else(journal: Ledger, tmp_path: Path) -> None:
    propose(journal, 2)
    path = tmp_path / "journal.log"
    intact = path.read_bytes()
    path.write_bytes(intact + b'{"op_code": 8, "trial_id": 0, "user_attr": {"lea')  # a writer was killed here
    assert len(Ledger(path).rows()) == 2
    claim = claimed(Ledger(path))
    assert path.read_bytes().startswith(intact)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert claim.trial.number == 0
    assert journal.claim("another") is not None  # one that had the journal open reads on


def test_a_full_disk_is_one_sentence_and_leaves_the_journal_readable(
    journal: Ledger, world: SimulatedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(journal)
    claim = claimed(journal)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="No space left on device"):
            journal.commit(claim, runs_of(world, claim))
    again = Ledger(tmp_path / "journal.log")
    assert len(again.rows()) == 1
    again.claim("another")
    assert again.rows()[0].state in ("running", "finished")


def test_optuna_sees_an_ordinary_study(journal: Ledger, world: SimulatedWorld) -> None:
    propose(journal, 3)
    for _ in range(2):
        claim = claimed(journal)
        journal.commit(claim, runs_of(world, claim))
    frame = journal.study.trials_dataframe()
    assert frame["state"].tolist() == ["COMPLETE", "COMPLETE", "WAITING"]
    assert journal.study.metric_names == ["bits per byte"]
    space = optuna.search_space.intersection_search_space(journal.study.trials)
    assert {"granularity", "log2_n_active", "tokens", "weight/web"} <= set(space)
