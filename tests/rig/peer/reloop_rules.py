"""What a slave decides: sections 8 to 11 of PROTOCOL.md, without a socket, a disk or a clock.

The rules are told what happened (`challenge`, `welcome`, `live`, `machine_says`) and then asked to `settle`. After
that `memory` is what has to be durable first, and only then `outgoing` is sent and `commands` go to the machine, in
this order. Reports are made in one place, by comparing what is true now with what was told before: no rule sends one.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional, Tuple, Union

from reloop_wire import (ENDED, EXECUTING, Activity, Answer, Ask, Attention, Cancel, CancelMode, Challenge, Clear,
                         Declined, Desired, DesiredState, Done, End, Flags, Forget, HeldGate, Hello, I64, Id, Late, Log,
                         MachineReport, MasterBinding, Message, Mode, OnOverdue, OperatingMode, Outcome, Pause, Ready,
                         Reason, ReasonCode, Record, Refused, Released, Report, ReportSeq, Resolve, Return, Row, Run,
                         Settled, Source, Spec, StartRule, State, Tell, U32, U64, Verdict, Versions, WaitingFor,
                         Welcome, as_text, digest, encode)

VERSION = 1
RECENT_OUTCOMES = 16
RECENT_OUTCOMES_BYTES = 64 * 1024
CAUSE_BYTES = 512
MAX_SPEC = 32 * 1024
MAX_SPECS = 128 * 1024
MAX_JOBS = 64
# A machine that tells its progress more often is not told on more often than this.
PROGRESS_EVERY_MS = 1000
SECONDS_AT_MOST = 7 * 86_400
# A start that is found past by more than this was missed (11.3).
LATE_TOLERANCE_MS = 60_000
# If the master's clock is found earlier by more than this, it was set back (11.1).
CLOCK_STEP_MS = 1000


@dataclass
class Now:
    """A reading of the slave's clocks."""
    boot: bytes
    since_boot: int
    wall: int


@dataclass
class ClockReading:
    """What the clocks said when the master said its time (11.1)."""
    boot: Id
    since_boot: I64
    wall: I64
    master: I64


@dataclass
class Held:
    """A job as 9.1 has it."""
    spec: Spec
    digest: Id
    desired: Desired
    start: StartRule
    report: Report
    due: bool = False
    missed: bool = False
    stopping: Optional[CancelMode] = None
    overrun: bool = False
    # The clocks when the machine was first known to work in this run. This machine can't pause.
    works_since: Optional[ClockReading] = None
    requires: Dict[str, str] = field(default_factory=dict)


@dataclass
class Memory:
    """All that is durable."""
    store: Id
    starts: U32 = 0
    session: U64 = 0
    binding: Optional[MasterBinding] = None
    operating_mode: OperatingMode = field(default_factory=lambda: OperatingMode(0, Mode.production))
    clock: Optional[ClockReading] = None
    attention: Optional[Attention] = None
    cause: Optional[str] = None
    unloading: Optional[Id] = None
    jobs: List[Held] = field(default_factory=list)
    recent_outcomes: List[Record] = field(default_factory=list)
    # The last Challenge came in another boot than the one before it, and no Welcome was applied since (11.1).
    doubts_releases: bool = False


@dataclass
class Settings:
    name: str
    key: bytes
    capacity: int = 4
    deferred_capacity: int = 16
    release: str = "auto"
    trust_clock: bool = False
    token: Optional[str] = None


# What the machine says of one beginning of a job.
@dataclass
class NeverBegan:
    pass


@dataclass
class Works:
    progress: int
    began_at: int


@dataclass
class Ended:
    end: End
    began_at: int
    ended_at: int
    text: str


@dataclass
class CannotSay:
    pass


@dataclass
class CouldNotBegin:
    """For a cause of the machine's own, and nothing began."""
    why: str


Said = Union[NeverBegan, Works, Ended, CannotSay, CouldNotBegin]


@dataclass
class Start:
    job: bytes
    attempt: int
    run: int
    params: Dict[str, str]


@dataclass
class Stop:
    job: bytes
    attempt: int
    run: int


@dataclass
class LetGo:
    job: bytes


Command = Union[Start, Stop, LetGo]


class MustClose(Exception):
    """The link is to be closed with this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


def check(program: str, params: Dict[str, str]) -> Optional[Reason]:
    """Why this machine would never do that: it knows `sleep`, for `seconds`, that may `fail` in the end."""
    if program != "sleep":
        return Reason(ReasonCode.unknown_program, f"this machine does not know {program[:64]}")
    if set(params) - {"seconds", "fail"} or params.get("fail", "no") not in ("yes", "no"):
        return Reason(ReasonCode.bad_params, "sleep takes seconds, and fail = yes or no")
    try:
        allowed = 0 <= float(params["seconds"]) <= SECONDS_AT_MOST
    except (KeyError, ValueError):
        allowed = False
    return None if allowed else Reason(ReasonCode.bad_params, f"seconds is a number from 0 to {SECONDS_AT_MOST}")


class Rules:
    def __init__(self, memory: Memory, settings: Settings, now: Now) -> None:
        self.memory, self.settings, self.now = memory, settings, now
        memory.starts += 1
        self.jobs: Dict[bytes, Held] = {held.report.job: held for held in memory.jobs}
        for held in memory.jobs:
            held.report.seq = ReportSeq(memory.starts, 1)
        self.last: Dict[bytes, Report] = {job: replace(held.report) for job, held in self.jobs.items()}
        self.last_machine: Optional[MachineReport] = None
        # An offer was declined for want of room, and that there is room again was not said; the same before this event.
        self.lacks_room = self.lacked_room = False
        self.again: set = set()
        self.unasked = {job for job, held in self.jobs.items()
                        if held.report.state in EXECUTING + (State.uncertain,)}
        # Since when the master's time is known, and whether a Welcome was applied since the agent started.
        self.awake_since: Optional[int] = None
        self.heard = False
        self.progress_at = 0
        self.doubtful = False
        # The commit of a Welcome after recent outcomes were told, until the master's first live message (8.3).
        self.owed: Optional[int] = None
        self.rows: Dict[bytes, Row] = {}
        self.outgoing: List[Message] = []
        self.commands: List[Command] = []

    def durable(self) -> Memory:
        """What has to survive. Where a report's number and progress stand is told anew after each start."""
        def kept(held: Held) -> Held:
            progress = held.report.progress if held.report.state in ENDED else None
            return replace(held, report=replace(held.report, seq=ReportSeq(0, 0), progress=progress, waiting_for=None))
        return replace(self.memory, jobs=[kept(held) for held in self.jobs.values()])

    # ---- 11.1 The master's time ----

    def master_time(self) -> Optional[int]:
        clock = self.memory.clock
        if clock is None:
            return None
        if clock.boot == self.now.boot:
            return clock.master + self.now.since_boot - clock.since_boot
        return self.now.wall + clock.master - clock.wall if self.settings.trust_clock else None

    def stamp(self, wall: Optional[int] = None) -> int:
        """The master's time or the best guess, for now or for what the machine saw at another time."""
        clock, known = self.memory.clock, self.master_time()
        now = known if known is not None else self.now.wall + (clock.master - clock.wall if clock else 0)
        return now if wall is None else now - max(0, self.now.wall - wall)

    # ---- 8 Handshake ----

    def challenge(self, challenge: Challenge) -> None:
        if not challenge.protocol.oldest <= VERSION <= challenge.protocol.newest:
            raise MustClose(4426, "no common version")
        binding, memory = self.memory.binding, self.memory
        foreign = binding is not None and binding.master != challenge.master
        later = binding is not None and not foreign and binding.epoch > challenge.epoch
        known = binding is not None and not foreign and binding.commit != 0 and not later
        # An incarnation counts until the next one begins.
        counts = [begun.at for begun in challenge.begun] + [challenge.commit]
        names = [begun.incarnation for begun in challenge.begun]
        counted = counts[names.index(binding.incarnation) + 1 if binding.incarnation in names else 0] if known else 0
        self.doubtful = later or known and binding.epoch == challenge.epoch and binding.commit > counted
        restored = known and binding.epoch < challenge.epoch
        self.tells_rows = not foreign
        self.tells_recent_outcomes = not foreign and (not known or self.doubtful or restored)
        if not foreign and not self.doubtful:
            self.measure(ClockReading(self.now.boot, self.now.since_boot, self.now.wall, challenge.time))
        memory.session += 1

    def measure(self, reading: ClockReading) -> None:
        """A release holds for a length of time: if the master's clock was set back, what is left of it stays."""
        memory, before = self.memory, self.memory.clock
        released = [held for held in self.jobs.values() if isinstance(held.start.gate, Released)]
        if before is None or before.boot != reading.boot:
            memory.doubts_releases = memory.doubts_releases or bool(released)
        else:
            step = (reading.master - before.master) - (reading.since_boot - before.since_boot)
            if step < -CLOCK_STEP_MS:
                for held in released:
                    held.start = replace(held.start, gate=Released(held.start.gate.latest + step))
        memory.clock = reading

    def hello(self) -> Hello:
        """After `settle`, so that the rows are the newest reports."""
        memory = self.memory
        rows = [held.report.row() for held in self.jobs.values()] if self.tells_rows else []
        recent_outcomes = [record.report.row() for record in memory.recent_outcomes if self.tells_recent_outcomes]
        self.rows = {row.job: row for row in rows}
        return Hello(Versions(VERSION, VERSION), self.settings.key, self.settings.name, "python-0.1", memory.binding,
                     self.settings.token, memory.store, self.now.boot, memory.starts, memory.session, self.now.wall,
                     self.machine(), ["sleep"], {}, self.settings.capacity, self.settings.deferred_capacity, rows,
                     recent_outcomes)

    def welcome(self, welcome: Welcome) -> None:
        memory = self.memory
        if welcome.protocol != VERSION:
            raise MustClose(4400, "a version that was not offered")
        self.told: Dict[bytes, Tell] = {}
        self.declined: List[Declined] = []
        foreign = memory.binding is not None and welcome.binding.master != memory.binding.master
        if foreign and self.doubtful:
            raise MustClose(4400, "a Welcome of another master than the one of the Challenge")
        if foreign:
            memory.binding = replace(welcome.binding, commit=0)
            memory.operating_mode = OperatingMode(0, memory.operating_mode.mode)
            raise MustClose(4001, "enrolled with another master; again, with all jobs")
        first = memory.binding is None
        if not first and not self.doubtful and memory.binding.epoch > welcome.binding.epoch:
            raise MustClose(4400, "a Welcome of an older epoch than that of the Challenge")
        self.owed = None
        if not self.doubtful:
            memory.binding, memory.doubts_releases, self.heard = welcome.binding, False, True
            if self.tells_recent_outcomes and memory.recent_outcomes:
                self.owed, memory.binding = welcome.binding.commit, replace(welcome.binding, commit=0)
            self.set_operating_mode(welcome.operating_mode)
        rolled_back = False
        for ruling in welcome.rulings:
            self.told[ruling.job] = ruling.tell
            if self.doubtful:
                continue
            held = self.jobs.get(ruling.job)
            if ruling.verdict is Verdict.quarantine:
                if not rolled_back:
                    memory.attention = Attention.store_rolled_back
                    memory.store, memory.recent_outcomes = secrets.token_bytes(16), []
                    rolled_back = True
                if held and held.report.state not in ENDED:
                    self.move(held, State.uncertain, Source.slave, ReasonCode.store_rolled_back, "the store went back")
            if ruling.desired_state:
                self.take_desired_state(ruling.desired_state)
            elif ruling.verdict is Verdict.cancel and held and held.report.attempt == ruling.attempt \
                    and held.report.state is State.accepted:
                code = ReasonCode.canceled if isinstance(held.desired, Cancel) else ReasonCode.abandoned
                self.move(held, State.canceled, Source.remote, code, "given up by the master")
            elif ruling.verdict is Verdict.ask_person and not held and any(
                    (record.report.job, record.report.attempt) == (ruling.job, ruling.attempt)
                    for record in memory.recent_outcomes):
                self.told[ruling.job] = Tell.report
            elif ruling.verdict is Verdict.ask_person and not held and memory.attention is None \
                    and not first:
                memory.attention = Attention.memory_gap

    def settled(self) -> Settled:
        """After `settle`: everything that changed since the Hello, and what was asked for."""
        kept = {record.report.job: record for record in self.memory.recent_outcomes}
        asked = {job: record for job in self.told if (record := self.record(job, kept))}
        records = {job: record for job, record in asked.items() if self.told[job] is Tell.record}
        reports = {job: record.report for job, record in asked.items() if self.told[job] is Tell.report}
        for job, held in self.jobs.items():
            if held.report.row() != self.rows.get(job):
                reports[job] = held.report
        return Settled(self.memory.session, [report for job, report in reports.items() if job not in records],
                       list(records.values()), self.declined, self.machine())

    def record(self, job: bytes, recent_outcomes: Dict[bytes, Record]) -> Optional[Record]:
        held = self.jobs.get(job)
        return Record(held.spec, held.start, held.report, held.requires) if held else recent_outcomes.get(job)

    # ---- 10 The live link ----

    def live(self, commit: int, message: Message) -> None:
        if not isinstance(message, (DesiredState, Forget, OperatingMode, Ask)):
            raise MustClose(4400, f"a {type(message).__name__} has no place on a live link")
        if self.doubtful:
            return
        if self.owed is not None:
            self.memory.binding, self.owed = replace(self.memory.binding, commit=self.owed), None
        binding = self.memory.binding
        if not (isinstance(message, Ask) and isinstance(message.question, Log)) and commit > binding.commit:
            self.memory.binding = replace(binding, commit=commit)
        if isinstance(message, DesiredState):
            self.declined = []
            self.take_desired_state(message)
            self.outgoing += self.declined
        elif isinstance(message, Forget):
            self.forget(message)
        elif isinstance(message, OperatingMode):
            self.set_operating_mode(message)
        else:
            self.outgoing.append(Answer(message.id, self.answer(message.question)))

    def forget(self, word: Forget) -> None:
        held = self.jobs.get(word.job)
        if held and held.report.attempt == word.attempt and held.report.state in ENDED and held.report.seq <= word.seq:
            del self.jobs[word.job]
            others = [record for record in self.memory.recent_outcomes if record.report.job != word.job]
            record = Record(held.spec, held.start, held.report, held.requires)
            self.memory.recent_outcomes = (others + [record])[-RECENT_OUTCOMES:]
            while sum(len(encode(record.spec)) for record in self.memory.recent_outcomes) > RECENT_OUTCOMES_BYTES:
                del self.memory.recent_outcomes[0]
            self.commands.append(LetGo(word.job))

    def set_operating_mode(self, operating_mode: OperatingMode) -> None:
        if operating_mode.generation >= self.memory.operating_mode.generation:
            self.memory.operating_mode = operating_mode

    def answer(self, question: Union[Ready, Clear, Log]) -> Union[Done, Refused]:
        memory = self.memory
        if isinstance(question, Ready) and memory.unloading == question.unloading:
            memory.unloading = None
            return Done()
        if isinstance(question, Clear) and memory.attention is question.attention:
            memory.attention = memory.cause = None
            for held in self.jobs.values():
                reason = held.report.reason
                if held.report.state is State.accepted and reason and reason.code is ReasonCode.machine_unfit:
                    held.report.reason = None
            return Done()
        if isinstance(question, Log):
            return Refused("this machine keeps no output")
        return Refused("that is not what it waits for; look at the slave again")

    # ---- 9.2 to 9.4 Desired states ----

    def take_desired_state(self, new: DesiredState) -> None:
        held = self.jobs.get(new.job)
        if held and new.attempt > held.report.attempt and held.report.state is State.accepted:
            del self.jobs[new.job]
            held = None
        if not held:
            refusal = self.offer(new)
            if refusal:
                self.lacks_room = self.lacks_room or refusal[0].code is ReasonCode.at_capacity
                self.declined.append(Declined(new.job, new.attempt, new.generation, *refusal))
        elif new.attempt > held.report.attempt:
            reason = Reason(ReasonCode.older_attempt, f"attempt {held.report.attempt} is still here")
            self.declined.append(Declined(new.job, new.attempt, new.generation, reason, False))
            self.again.add(new.job)
        elif new.attempt == held.report.attempt and new.generation <= held.report.generation:
            self.again.add(new.job)
        elif new.attempt == held.report.attempt:
            self.change(held, new)

    def offer(self, new: DesiredState) -> Optional[Tuple[Reason, bool]]:
        """Takes it, or says why not and whether for good."""
        def no(code: ReasonCode, text: str, for_good: bool = False) -> Tuple[Reason, bool]:
            return Reason(code, text), for_good

        done = next((record for record in self.memory.recent_outcomes
                     if record.report.job == new.job and record.report.attempt >= new.attempt), None)
        time, spec, mode = self.master_time(), new.spec, self.memory.operating_mode.mode
        if done:
            report = replace(done.report, seq=replace(done.report.seq, start=self.memory.starts))
            self.jobs[new.job] = Held(done.spec, digest(done.spec), Run(), done.start, report, requires=done.requires)
            return None
        if isinstance(new.desired, (Cancel, Resolve)):
            return no(ReasonCode.not_held, "nothing of this job is here", True)
        if isinstance(new.desired, Return):
            return no(ReasonCode.given_back, "nothing of this job is here")
        if spec is None:
            return no(ReasonCode.not_held, "offer it whole")
        if digest(spec) != new.digest:
            return no(ReasonCode.digest_mismatch, "the work is not what was agreed", True)
        wrong = check(spec.program, spec.params)
        if wrong:
            return wrong, True
        if new.requires:
            return no(ReasonCode.missing_label, "this slave has no labels", True)
        if mode is not Mode.production:
            return no(ReasonCode.not_in_production, f"the mode is {mode.name}")
        if new.start.deadline is not None and time is not None and new.start.deadline < time:
            return no(ReasonCode.window_closed, "its latest start has passed")
        report = Report(new.job, new.attempt, 0, new.generation, ReportSeq(self.memory.starts, 0), State.accepted, None,
                        None, None, self.stamp(), None, None, None, None, None, Flags.none, Source.remote)
        offered = Held(spec, new.digest, new.desired, new.start, report)
        come = new.start.not_before is not None and time is not None and new.start.not_before <= time
        offered.due = come or isinstance(new.start.gate, Released)
        def waits(held: Held) -> bool:
            return held.report.state is State.accepted and self.holds(held, time) is not None
        at = new.start.not_before
        near = at is not None and time is not None and at - time <= LATE_TOLERANCE_MS
        def full(deferred: bool) -> Optional[List[Held]]:
            alike = [held for held in self.jobs.values() if held.report.state not in ENDED and waits(held) == deferred]
            bound = self.settings.deferred_capacity if deferred else self.settings.capacity
            return alike if len(alike) >= bound else None
        alike = full(waits(offered))
        if alike is not None and not (near and waits(offered) and full(False) is None):
            places = ", ".join(as_text("job", held.report.job) for held in alike[:8])
            return no(ReasonCode.at_capacity, f"held already: {places}")
        if len(self.jobs) >= MAX_JOBS:
            return no(ReasonCode.at_capacity, "the outcomes that are held have to be forgotten first")
        sizes = [len(encode(each)) for each in [spec] + [held.spec for held in self.jobs.values()]]
        if sizes[0] > MAX_SPEC:
            return no(ReasonCode.bad_params, "larger than this slave takes", True)
        if sum(sizes) > MAX_SPECS:
            return no(ReasonCode.at_capacity, "as much work is held as one message can tell")
        self.jobs[new.job] = offered
        return None

    def change(self, held: Held, new: DesiredState) -> None:
        report, desired = held.report, new.desired
        report.generation, report.source, held.desired = new.generation, Source.remote, desired
        accepted = report.state is State.accepted
        begun = report.started_at is not None or bool(report.flags & Flags.interrupted)
        takes_start = accepted or (not begun and report.state not in ENDED)
        if takes_start:
            if new.start.not_before != held.start.not_before:
                time = self.master_time()
                at = new.start.not_before
                is_over = at is not None and time is not None and at <= time
                held.due = is_over and not held.missed
                if not is_over:
                    held.missed = False
                    if report.reason and report.reason.code is ReasonCode.missed_start:
                        report.reason = None
            held.start = new.start
            if isinstance(new.start.gate, Released):
                held.missed, held.due = False, True
        if new.digest != held.digest:
            report.reason = Reason(ReasonCode.digest_mismatch, "it is desired for other work")
            if takes_start:
                held.start = replace(held.start, gate=HeldGate())
        if isinstance(desired, Run) and report.reason and report.reason.code is ReasonCode.pause_refused:
            report.reason = None
        if isinstance(desired, Pause) and report.state in (State.starting, State.running):
            report.reason = Reason(ReasonCode.pause_refused, "this machine cannot pause")
        elif isinstance(desired, Cancel):
            if accepted:
                self.move(held, State.canceled, Source.remote, ReasonCode.canceled, "canceled before it began")
            elif report.state in EXECUTING and desired.mode is not CancelMode.if_not_started:
                self.stop(held, desired.mode, ReasonCode.canceled, "canceled", Source.remote)
            elif report.state is not State.uncertain:
                report.flags |= Flags.cancel_too_late
        elif isinstance(desired, Return) and accepted and report.started_at is None:
            del self.jobs[report.job]
            reason = Reason(ReasonCode.given_back, "given back as asked")
            self.declined.append(Declined(new.job, new.attempt, new.generation, reason, False))
        elif isinstance(desired, Resolve) and report.state is State.uncertain:
            end = {End.succeeded: State.succeeded, End.failed: State.failed, End.stopped: State.canceled}[desired.end]
            self.move(held, end, Source.remote, ReasonCode.resolved, "a person said so")
            self.occupy(held)

    # ---- 9.5 A job's life ----

    def move(self, held: Held, state: State, source: Source, code: Optional[ReasonCode] = None, text: str = "") -> None:
        report = held.report
        report.state, report.source, report.waiting_for = state, source, None
        if code is not None:
            report.reason = Reason(code, text)
        if state in ENDED and report.ended_at is None:
            report.ended_at = self.stamp()

    def stop(self, held: Held, mode: CancelMode, code: ReasonCode, text: str, source: Source) -> None:
        if held.report.state is not State.stopping:
            self.move(held, State.stopping, source, code, text)
        held.stopping = max(mode, held.stopping or mode)
        self.commands.append(Stop(held.report.job, held.report.attempt, held.report.run))

    def machine_says(self, job: bytes, said: Said) -> None:
        """While it works, and about what was under way when the agent started."""
        held = self.jobs.get(job)
        after_start = job in self.unasked
        self.unasked.discard(job)
        if not held or held.report.state not in EXECUTING + (State.uncertain,):
            return
        report = held.report
        if isinstance(said, Ended):
            self.ended(held, said)
        elif isinstance(said, Works):
            self.works(held, said, after_start)
        elif isinstance(said, CouldNotBegin):
            if report.state is not State.uncertain:
                self.could_not_begin(held, said.why.encode()[:CAUSE_BYTES].decode(errors="ignore"))
        elif isinstance(said, NeverBegan) and report.state is State.starting and isinstance(held.desired, Cancel):
            report.flags &= ~Flags.cancel_too_late
            self.move(held, State.canceled, Source.remote, ReasonCode.canceled, "canceled before it began")
        elif isinstance(said, NeverBegan) and report.state is State.starting:
            self.move(held, State.accepted, Source.slave)
        elif isinstance(said, NeverBegan) and report.state is State.stopping:
            self.move(held, State.canceled, Source.machine)
        elif report.state is not State.uncertain:
            self.move(held, State.uncertain, Source.slave, ReasonCode.no_proof, "the machine could not say what it did")

    def could_not_begin(self, held: Held, why: str) -> None:
        report, memory = held.report, self.memory
        if report.state is State.stopping:
            self.move(held, State.canceled, Source.machine)
        elif isinstance(held.desired, Cancel):
            report.flags &= ~Flags.cancel_too_late
            self.move(held, State.canceled, Source.remote, ReasonCode.canceled, "canceled before it began")
        else:
            self.move(held, State.accepted, Source.machine, ReasonCode.machine_unfit,
                      f"the machine could not begin it: {why}; mend that: it goes on within 10 minutes, or at once after `clear`")
            report.started_at = report.started_generation = report.progress = None
        if memory.attention is None:
            memory.attention, memory.cause = Attention.machine_unfit, why

    def works(self, held: Held, said: Works, after_start: bool) -> None:
        report = held.report
        if report.started_at is None:
            report.started_at, report.started_generation = self.stamp(said.began_at), report.generation
        if report.state in (State.starting, State.paused, State.uncertain):
            self.move(held, State.running, Source.machine)
            report.reason = None
        elif report.state is State.stopping and after_start:
            self.commands.append(Stop(report.job, report.attempt, report.run))
        if report.progress is None or self.now.since_boot - self.progress_at >= PROGRESS_EVERY_MS:
            report.progress, self.progress_at = said.progress, self.now.since_boot
        if held.works_since is None:
            held.works_since = ClockReading(self.now.boot, self.now.since_boot, self.now.wall, self.stamp())
        limit = held.spec.max_runtime
        if limit is not None and self.worked(held.works_since) >= limit and not held.overrun:
            held.overrun = True
            report.flags |= Flags.overdue
            if held.spec.on_overdue is OnOverdue.stop and report.state is State.running:
                self.stop(held, CancelMode.safe_point, ReasonCode.max_runtime, "longer than allowed", Source.slave)

    def worked(self, since: ClockReading) -> int:
        """The work time of a run, for max_runtime (9.5)."""
        time = self.master_time()
        if since.boot == self.now.boot:
            return self.now.since_boot - since.since_boot
        return time - since.master if time is not None else self.now.since_boot

    def ended(self, held: Held, said: Ended) -> None:
        report = held.report
        if report.started_at is None:
            report.started_at, report.started_generation = self.stamp(said.began_at), report.generation
        report.ended_at = self.stamp(said.ended_at)
        report.outcome = Outcome(None if said.end is End.stopped else int(said.end), None, said.text)
        if said.end is End.succeeded:
            report.reason, report.progress = None, 1000
            self.move(held, State.succeeded, Source.machine)
            if isinstance(held.desired, Cancel) or held.stopping is not None:
                report.flags |= Flags.cancel_too_late
        elif said.end is End.failed:
            self.move(held, State.failed, Source.machine, ReasonCode.machine_fault, said.text)
        else:
            self.move(held, State.canceled, Source.machine)
        self.occupy(held)

    def occupy(self, held: Held) -> None:
        if self.settings.release == "ack":
            self.memory.unloading = held.report.job

    # ---- 11.2, 11.3 What may start ----

    def settle(self) -> None:
        """Once after every event: what falls due, what starts, what is told."""
        time = self.master_time()
        accepted = [held for held in self.jobs.values() if held.report.state is State.accepted]
        if time is not None:
            for held in accepted:
                self.fall_due(held, time)
            if self.awake_since is None:
                self.awake_since = time
        accepted = [held for held in accepted if held.report.state is State.accepted]
        waits = {held.report.job: self.holds(held, time) for held in accepted}
        free = [held for held in accepted if waits[held.report.job] is None]
        barred = self.barred()
        busy = any(held.report.state in EXECUTING for held in self.jobs.values())
        if free and not barred and not busy:
            first = min(free, key=lambda held: (-held.start.priority, held.report.job))
            first.report.run, first.report.progress = first.report.run + 1, None
            first.works_since, first.overrun = None, False
            self.move(first, State.starting, Source.slave)
            missed = first.report.reason and first.report.reason.code is ReasonCode.missed_start
            if not missed and not first.report.flags & Flags.interrupted:
                first.report.reason = None
            self.commands.append(Start(first.report.job, first.report.attempt, first.report.run, first.spec.params))
        for held in accepted:
            if held.report.state is State.accepted:
                wait = waits[held.report.job]
                held.report.waiting_for = wait if wait is not None else WaitingFor.ready if barred else WaitingFor.turn
        self.tell()

    def fall_due(self, held: Held, time: int) -> None:
        start, report = held.start, held.report
        if start.deadline is not None and start.deadline < time:
            self.move(held, State.expired, Source.slave, ReasonCode.window_closed, "its latest start has passed")
        elif start.not_before is not None and start.not_before <= time and not held.due and (
                not held.missed or self.awake_since is None):
            if time - start.not_before <= LATE_TOLERANCE_MS:
                held.due = not held.missed
                return
            report.flags |= Flags.missed_start
            if start.late is Late.skip:
                self.move(held, State.expired, Source.slave, ReasonCode.missed_start, "its start was missed")
            held.missed, held.due = start.late is Late.hold, start.late is Late.run

    def holds(self, held: Held, time: Optional[int]) -> Optional[WaitingFor]:
        start, gate, reason = held.start, held.start.gate, held.report.reason
        if reason and reason.code is ReasonCode.release_lapsed:
            held.report.reason = None
        if isinstance(held.desired, Pause):
            return WaitingFor.operator
        if held.missed and not isinstance(gate, Released):
            held.report.reason = Reason(ReasonCode.missed_start, "its start was found past by more than the tolerance")
        if time is None:
            timed = start.not_before is not None or start.deadline is not None or isinstance(gate, Released)
            return self.gate(held) or (WaitingFor.clock if timed else None)
        if isinstance(gate, Released):
            if gate.latest >= time:
                return WaitingFor.clock if self.memory.doubts_releases else None
            held.report.reason = Reason(ReasonCode.release_lapsed, "the release came too late to count")
            return WaitingFor.operator
        at = start.not_before
        is_early = at is not None and at > time
        # If the database was put back, the job may have started already, and the master knows.
        if at is not None and not self.heard and self.awake_since is not None and at < self.awake_since:
            is_early = is_early or at + LATE_TOLERANCE_MS > time
        return self.gate(held) or (WaitingFor.time if is_early else None)

    @staticmethod
    def gate(held: Held) -> Optional[WaitingFor]:
        gate = held.start.gate
        is_held = isinstance(gate, HeldGate) or held.missed and not isinstance(gate, Released)
        return WaitingFor.operator if is_held else None

    def barred(self) -> bool:
        """Whether the machine is to be left alone, whatever waits."""
        memory = self.memory
        return (memory.unloading is not None or memory.attention is not None or bool(self.unasked)
                or memory.operating_mode.mode not in (Mode.production, Mode.draining)
                or any(held.report.state is State.uncertain for held in self.jobs.values()))

    def machine(self) -> MachineReport:
        memory = self.memory
        uncertain = next((job for job, held in self.jobs.items() if held.report.state is State.uncertain), None)
        executing = next((held.report.state for held in self.jobs.values() if held.report.state in EXECUTING), None)
        if self.unasked:
            activity = Activity.unknown
        elif executing is not None:
            special = {State.starting: Activity.preparing, State.paused: Activity.paused}
            activity = special.get(executing, Activity.running)
        elif memory.attention is not None or uncertain:
            activity = Activity.attention
        elif memory.unloading is not None:
            activity = Activity.unloading
        else:
            activity = Activity.idle if self.barred() else Activity.ready
        cause = memory.cause if memory.attention is Attention.machine_unfit else None
        return MachineReport(activity, memory.unloading, memory.attention, uncertain, False,
                             replace(memory.operating_mode), cause)

    # ---- 10.1, 10.2 Reports ----

    def tell(self) -> None:
        """A new number for each report that is not the one before; all of them are sent if there is a link."""
        for job, held in self.jobs.items():
            last = self.last.get(job)
            if last != held.report or job in self.again:
                held.report.seq = ReportSeq(self.memory.starts, held.report.seq.count + 1)
                self.outgoing.append(replace(held.report))
        self.again.clear()
        def place(report: Report) -> Tuple[bool, Optional[WaitingFor]]:
            return report.state in ENDED, report.waiting_for
        room_made = self.lacked_room and any(
            job not in self.jobs or place(self.jobs[job].report) != place(last) for job, last in self.last.items())
        self.lacked_room = self.lacks_room = self.lacks_room and not room_made
        self.last = {job: replace(held.report) for job, held in self.jobs.items()}
        machine = self.machine()
        if machine != self.last_machine or room_made:
            self.last_machine = machine
            self.outgoing.append(machine)
