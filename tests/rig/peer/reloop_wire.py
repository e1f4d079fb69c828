"""The messages of the Reloop link, version 1, and how they become bytes.

Sections 3 to 6 of PROTOCOL.md, written down as dataclasses. `codec(kind)` reads the annotations of a type and gives
what turns its values into bytes and back, and into plain JSON values and back; there is nothing else to keep in step
with the document. A list of variants that carry fields is a `Union` of dataclasses in the order of their numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, is_dataclass
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import (Annotated, Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union, get_args, get_origin,
                    get_type_hints)

MAX_MESSAGE = 262_144
MAX_HELLO = 65_536
SUBPROTOCOL = "reloop.v1"


# ---- 3 Encoding ----

class Malformed(ValueError):
    """The bytes are not what they should be."""


class Reader:
    """Takes values off the front of some bytes; whatever is too short, too long or no such value is `Malformed`."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Malformed("cut short")
        self.at += count
        return self.data[self.at - count:self.at]

    def varint(self, bits: int = 64) -> int:
        start, first = self.at, self.take(1)[0]
        if first > 0xFD:
            raise Malformed("no such integer")
        number = first if first <= 250 else int.from_bytes(self.take(2 << (first - 0xFB)), "little")
        if number >> bits:
            raise Malformed(f"{number} does not fit {bits} bits")
        if varint(number) != self.data[start:self.at]:
            raise Malformed(f"{number} is not in its shortest form")
        return number

    def length(self) -> int:
        """Nothing is empty on the wire, so more elements than bytes are left cannot come."""
        count = self.varint()
        if count > len(self.data) - self.at:
            raise Malformed("cut short")
        return count

    def tag(self) -> bool:
        byte = self.take(1)[0]
        if byte > 1:
            raise Malformed("a tag is 0 or 1")
        return byte == 1

    def end(self) -> None:
        if self.at != len(self.data):
            raise Malformed("bytes left over")


def varint(number: int) -> bytes:
    for limit, prefix, size in ((1 << 16, b"\xfb", 2), (1 << 32, b"\xfc", 4), (1 << 64, b"\xfd", 8)):
        if 0 <= number <= 250:
            return bytes([number])
        if 0 <= number < limit:
            return prefix + number.to_bytes(size, "little")
    raise ValueError(f"{number} does not fit 64 bits")


@dataclass(frozen=True)
class Unsigned:
    bits: int


@dataclass(frozen=True)
class Signed:
    bits: int


@dataclass(frozen=True)
class Fixed:
    size: int


U16, U32, U64 = (Annotated[int, Unsigned(bits)] for bits in (16, 32, 64))
I32, I64 = (Annotated[int, Signed(bits)] for bits in (32, 64))
Incarnation, Id, Half, Nonce, Key = (Annotated[bytes, Fixed(size)] for size in (8, 16, 32, 32, 32))


class Codec(NamedTuple):
    encode: Callable[[Any], bytes]
    decode: Callable[[Reader], Any]
    plain: Callable[[Any], Any]
    parse: Callable[[Any], Any]


def same(value: Any) -> Any:
    return value


@lru_cache(maxsize=None)
def codec(kind: Any) -> Codec:
    """How values of this type are written and read."""
    if get_origin(kind) is Annotated:
        form = kind.__metadata__[0]
        if isinstance(form, Fixed):
            return Codec(bytes, lambda reader: reader.take(form.size), bytes.hex, bytes.fromhex)
        if isinstance(form, Unsigned):
            return Codec(varint, lambda reader: reader.varint(form.bits), same, same)
        return Codec(lambda n: varint(2 * n if n >= 0 else -2 * n - 1), lambda reader: zigzag(reader.varint(form.bits)),
                     same, same)
    if kind is bool:
        return Codec(lambda value: bytes([value]), Reader.tag, same, same)
    if kind is bytes:
        return Codec(lambda value: varint(len(value)) + value, lambda reader: reader.take(reader.varint()),
                     bytes.hex, bytes.fromhex)
    if kind is str:
        return Codec(encode_text, decode_text, same, same)
    if get_origin(kind) is list:
        item = codec(get_args(kind)[0])
        return Codec(lambda values: varint(len(values)) + b"".join(map(item.encode, values)),
                     lambda reader: [item.decode(reader) for _ in range(reader.length())],
                     lambda values: [item.plain(value) for value in values],
                     lambda values: [item.parse(value) for value in values])
    if get_origin(kind) is dict:
        return Codec(encode_map, decode_map, same, same)
    if get_origin(kind) is Union:
        variants = get_args(kind)
        return optional(codec(variants[0])) if type(None) in variants else one_of(variants)
    if issubclass(kind, IntFlag):
        return Codec(lambda flags: varint(int(flags)), lambda reader: kind(reader.varint(16)), int, kind)
    if issubclass(kind, IntEnum):
        return Codec(varint, lambda reader: variant(list(kind), reader), lambda value: value.name, kind.__getitem__)
    assert is_dataclass(kind), kind
    hints = get_type_hints(kind, include_extras=True)
    parts = [(part.name, codec(hints[part.name])) for part in fields(kind)]
    return Codec(lambda value: b"".join(part.encode(getattr(value, name)) for name, part in parts),
                 lambda reader: kind(*[part.decode(reader) for _, part in parts]),
                 lambda value: {name: part.plain(getattr(value, name)) for name, part in parts},
                 lambda value: kind(*[part.parse(value[name]) for name, part in parts]))


def zigzag(number: int) -> int:
    return number >> 1 if number % 2 == 0 else -(number >> 1) - 1


def encode_text(text: str) -> bytes:
    return varint(len(text.encode())) + text.encode()


def decode_text(reader: Reader) -> str:
    try:
        return reader.take(reader.varint()).decode()
    except UnicodeDecodeError as error:
        raise Malformed("not UTF-8") from error


def encode_map(pairs: Dict[str, str]) -> bytes:
    ordered = sorted(pairs.items(), key=lambda pair: pair[0].encode())
    return varint(len(pairs)) + b"".join(encode_text(key) + encode_text(value) for key, value in ordered)


def decode_map(reader: Reader) -> Dict[str, str]:
    pairs = [(decode_text(reader), decode_text(reader)) for _ in range(reader.length())]
    keys = [key.encode() for key, _ in pairs]
    if keys != sorted(set(keys)):
        raise Malformed("a map's keys are not in order, or one is there twice")
    return dict(pairs)


def optional(inner: Codec) -> Codec:
    return Codec(lambda value: b"\0" if value is None else b"\1" + inner.encode(value),
                 lambda reader: inner.decode(reader) if reader.tag() else None,
                 lambda value: None if value is None else inner.plain(value),
                 lambda value: None if value is None else inner.parse(value))


def one_of(variants: Tuple[Any, ...]) -> Codec:
    def encode(value: Any) -> bytes:
        return varint(variants.index(type(value))) + codec(type(value)).encode(value)

    def parse(value: Dict[str, Any]) -> Any:
        kind = next(kind for kind in variants if kind.__name__ in value)
        return codec(kind).parse(value[kind.__name__])

    return Codec(encode, lambda reader: codec(variant(list(variants), reader)).decode(reader),
                 lambda value: {type(value).__name__: codec(type(value)).plain(value)}, parse)


def variant(variants: List[Any], reader: Reader) -> Any:
    number = reader.varint(32)
    if number >= len(variants):
        raise Malformed(f"no variant {number}")
    return variants[number]


# ---- 5 Types ----

State = IntEnum("State", "queued assigned accepted starting running paused stopping uncertain succeeded failed "
                         "canceled rejected expired lost", start=0)
WaitingFor = IntEnum("WaitingFor", "turn time artifact ready operator clock elsewhere", start=0)
Source = IntEnum("Source", "remote local slave machine", start=0)
Activity = IntEnum("Activity", "idle ready preparing running paused unloading attention fault machine_off unknown",
                   start=0)
Attention = IntEnum("Attention", """store_replaced store_rolled_back moved fault memory_gap machine_unfit
    failures_in_row""", start=0)
Mode = IntEnum("Mode", "production draining maintenance disabled quarantined", start=0)
OnOverdue = IntEnum("OnOverdue", "flag stop", start=0)
OnInterrupt = IntEnum("OnInterrupt", "hold fail restart", start=0)
Late = IntEnum("Late", "hold run skip", start=0)
CancelMode = IntEnum("CancelMode", "if_not_started safe_point now", start=0)
End = IntEnum("End", "succeeded failed stopped", start=0)
Verdict = IntEnum("Verdict", "keep offer start cancel recall adopt forget release quarantine ask_person", start=0)
Tell = IntEnum("Tell", "nothing report record", start=0)
ReasonCode = IntEnum("ReasonCode", """at_capacity unknown_program bad_params not_in_production local_lock window_closed
    missed_start release_lapsed not_held given_back digest_mismatch older_attempt start_refused stop_refused
    pause_refused paused_locally stopped_locally interrupted interrupted_too_often no_proof max_runtime canceled
    vanished store_replaced store_rolled_back abandoned resolved retrying machine_fault restored machine_unfit
    missing_label""", start=0)
# The number in a Refuse is the place in this list; the value is the number in a WebSocket close frame.
CLOSE_CODES = [4400, 4401, 4403, 4404, 4408, 4409, 4410, 4411, 4413, 4414, 4426, 4429, 4440, 4441, 4001, 4507, 4000]
CloseCode = IntEnum("CloseCode", """protocol not_authentic not_enrolled wrong_master too_slow duplicate_identity revoked
    superseded too_large slow_reader version try_later stale_master name_taken going_away storage silent""", start=0)

EXECUTING = (State.starting, State.running, State.paused, State.stopping)
ENDED = (State.succeeded, State.failed, State.canceled, State.rejected, State.expired, State.lost)


class Flags(IntFlag):
    none = 0
    overdue = 1
    cancel_too_late = 2
    duplicate = 4
    adopted = 8
    late_result = 16
    missed_start = 32
    interrupted = 64


@dataclass(frozen=True, order=True)
class ReportSeq:
    start: U32
    count: U32


@dataclass
class Versions:
    oldest: U16
    newest: U16


@dataclass
class MasterBinding:
    master: Id
    epoch: U32
    incarnation: Incarnation
    commit: U64


@dataclass
class Spec:
    order: Id
    name: Optional[str]
    program: str
    params: Dict[str, str]
    max_runtime: Optional[U64]
    on_overdue: OnOverdue
    on_interrupt: OnInterrupt


@dataclass
class Open:
    pass


@dataclass
class HeldGate:
    pass


@dataclass
class Released:
    latest: I64


Gate = Union[Open, HeldGate, Released]


@dataclass
class StartRule:
    not_before: Optional[I64]
    deadline: Optional[I64]
    late: Late
    gate: Gate
    priority: I32


@dataclass
class Run:
    pass


@dataclass
class Pause:
    pass


@dataclass
class Cancel:
    mode: CancelMode


@dataclass
class Return:
    pass


@dataclass
class Resolve:
    end: End


Desired = Union[Run, Pause, Cancel, Return, Resolve]


@dataclass
class DesiredState:
    job: Id
    attempt: U32
    generation: U32
    digest: Id
    spec: Optional[Spec]
    requires: Dict[str, str]
    desired: Desired
    start: StartRule


@dataclass
class Outcome:
    exit_code: Optional[I32]
    signal: Optional[I32]
    text: str


@dataclass
class Reason:
    code: ReasonCode
    text: str


@dataclass
class Report:
    job: Id
    attempt: U32
    run: U32
    generation: U32
    seq: ReportSeq
    state: State
    waiting_for: Optional[WaitingFor]
    progress: Optional[U16]
    note: Optional[str]
    accepted_at: I64
    started_at: Optional[I64]
    started_generation: Optional[U32]
    ended_at: Optional[I64]
    outcome: Optional[Outcome]
    reason: Optional[Reason]
    flags: Flags
    source: Source

    def row(self) -> Row:
        return Row(self.job, self.attempt, self.generation, self.seq, self.state, self.progress)


@dataclass
class Record:
    spec: Spec
    start: StartRule
    report: Report
    requires: Dict[str, str]


@dataclass
class Row:
    job: Id
    attempt: U32
    generation: U32
    seq: ReportSeq
    state: State
    progress: Optional[U16]


@dataclass
class OperatingMode:
    generation: U32
    mode: Mode


@dataclass
class MachineReport:
    activity: Activity
    unloading: Optional[Id]
    attention: Optional[Attention]
    uncertain: Optional[Id]
    local_lock: bool
    operating_mode: OperatingMode
    cause: Optional[str]


# ---- 6 Messages ----

@dataclass
class Begun:
    incarnation: Incarnation
    at: U64


@dataclass
class Challenge:
    protocol: Versions
    master: Id
    epoch: U32
    commit: U64
    begun: List[Begun]
    nonce: Nonce
    time: I64


@dataclass
class Hello:
    protocol: Versions
    key: Key
    name: str
    agent: str
    binding: Optional[MasterBinding]
    token: Optional[str]
    store: Id
    boot: Id
    starts: U32
    session: U64
    clock: I64
    machine: MachineReport
    programs: List[str]
    labels: Dict[str, str]
    capacity: U16
    deferred_capacity: U16
    rows: List[Row]
    recent_outcomes: List[Row]


@dataclass
class Ruling:
    job: Id
    attempt: U32
    verdict: Verdict
    tell: Tell
    desired_state: Optional[DesiredState]


@dataclass
class Welcome:
    protocol: U16
    session: U64
    binding: MasterBinding
    operating_mode: OperatingMode
    rulings: List[Ruling]


@dataclass
class Refuse:
    code: CloseCode
    text: str
    retry_after_ms: Optional[U32]


@dataclass
class Declined:
    job: Id
    attempt: U32
    generation: U32
    reason: Reason
    for_good: bool


@dataclass
class Settled:
    session: U64
    reports: List[Report]
    records: List[Record]
    declined: List[Declined]
    machine: MachineReport


@dataclass
class Forget:
    job: Id
    attempt: U32
    seq: ReportSeq


@dataclass
class Ready:
    unloading: Id


@dataclass
class Clear:
    attention: Attention


@dataclass
class Log:
    job: Id
    attempt: U32
    run: U32
    offset: Optional[U64]
    limit: U32


@dataclass
class Ask:
    id: U32
    question: Union[Ready, Clear, Log]


@dataclass
class Done:
    pass


@dataclass
class Refused:
    text: str


@dataclass
class LogPart:
    offset: U64
    total: U64
    bytes: bytes


@dataclass
class Answer:
    id: U32
    answer: Union[Done, Refused, LogPart]


@dataclass
class Ping:
    pass


@dataclass
class Pong:
    pass


Message = Union[Challenge, Hello, Welcome, Refuse, Settled, Report, Declined, MachineReport, DesiredState, Forget,
                OperatingMode, Ask, Answer, Ping, Pong]


# ---- 4 Frames, 7 Signature ----

@dataclass
class Signature:
    first: Half
    second: Half


@dataclass
class Frame:
    session: U64
    commit: U64
    message: Message
    signature: Optional[Signature] = field(default=None)


def encode(value: Any, kind: Any = None) -> bytes:
    return codec(kind or type(value)).encode(value)


def decode(data: bytes, kind: Any = Frame) -> Any:
    """One value, to the last byte. Raises `Malformed`."""
    if len(data) > MAX_MESSAGE:
        raise Malformed("too large")
    reader = Reader(data)
    value = codec(kind).decode(reader)
    reader.end()
    return value


def signed_bytes(nonce: bytes, hello: Hello) -> bytes:
    return b"reloop.v1 hello\0" + nonce + encode(hello)


def digest(spec: Spec) -> bytes:
    return hashlib.sha256(encode(spec)).digest()[:16]


CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def as_text(prefix: str, identity: bytes) -> str:
    """An id as people and REST see it."""
    number = int.from_bytes(identity, "big")
    return prefix + "_" + "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
