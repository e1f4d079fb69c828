#!/usr/bin/env python3
"""A slave of Reloop in Python, written from PROTOCOL.md: an example for slaves in other languages.

`reloop_wire` has the messages, `reloop_rules` decides, `reloop_machine` is a machine that sleeps. Here is what is left:
the disk, the link, and the one loop that owns the rules. It takes one event at a time, has the rules decide, makes
their memory durable, and only then sends what they say and touches the machine. Reading goes on meanwhile, so that a
Ping is answered whatever the disk does.

    python3 reloop_slave.py --name mill-9 --master ws://127.0.0.1:7400/v1/link --state ./mill-9
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Optional, Tuple
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from reloop_machine import Machine, milliseconds, write_durably
from reloop_rules import EXECUTING, Memory, MustClose, Now, Rules, Settings
from reloop_wire import (CLOSE_CODES, MAX_MESSAGE, SUBPROTOCOL, Attention, Challenge, Frame, Malformed, Message, Ping,
                         Pong, Refuse, Signature, Welcome, codec, decode, encode, signed_bytes)

log = logging.getLogger("reloop-slave")

HANDSHAKE_S = 10
SEND_S = 20
# How often the machine is looked at while it works.
LOOK_S = 0.2
# More than a master says at once; who says more is told to come back later.
UNREAD_FRAMES = 256
FIRST_PAUSE_S = 0.2
RETRY_AFTER_AT_MOST_S = 600
NEEDS_A_PERSON = {4401, 4403, 4404, 4409, 4410, 4426, 4440, 4441}


class Link:
    """One connection: where its handshake is, and how it ended."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.session = 0
        self.awaits: Optional[type] = Challenge
        self.was_live = asyncio.Event()
        self.refused: Optional[Refuse] = None
        self.code: Optional[int] = None

    async def send(self, message: Message, signature: Optional[Signature] = None) -> None:
        session = 0 if isinstance(message, (Ping, Pong)) else self.session
        try:
            await asyncio.wait_for(self.socket.send(encode(Frame(session, 0, message, signature))), SEND_S)
        except asyncio.TimeoutError:
            await self.close(4414, "the master does not read")
        except ConnectionClosed:
            pass  # Whoever reads the link sees its end too, and the next handshake tells what was not sent.

    async def close(self, code: int, text: str) -> None:
        if self.code is None:
            log.info("closing the link: %s %s", code, text)
            self.code = code
            await self.socket.close(code, text[:120])


class Agent:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        directory = Path(arguments.state)
        directory.mkdir(parents=True, exist_ok=True)
        self.machine = Machine(directory)
        self.key, fresh_key = open_key(directory / "key")
        self.state = directory / "state.json"
        self.saved = ""
        public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        settings = Settings(arguments.name, public, arguments.capacity, arguments.deferred_capacity, arguments.release,
                            arguments.trust_clock, arguments.token)
        self.rules = Rules(open_memory(self.state, fresh_key), settings, clocks())
        self.events: asyncio.Queue[Optional[Tuple[Link, int, Message]]] = asyncio.Queue(UNREAD_FRAMES)
        self.link: Optional[Link] = None

    async def run(self) -> None:
        await self.save()  # The number of this start, before anything is said.
        for job in sorted(self.rules.unasked):
            self.ask_machine(job)
        await self.finish_turn()
        tasks = [asyncio.create_task(task) for task in (self.dial(), self.look(), self.decide())]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tasks[2].cancel)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled():
                    task.result()
        finally:
            if self.link:
                await self.link.close(4507 if sys.exc_info()[0] else 4001, "the agent ends; the machine goes on")
            for task in tasks:
                task.cancel()

    # ---- The loop that decides ----

    async def decide(self) -> None:
        while True:
            event = await self.events.get()
            self.rules.now = clocks()
            if event is None:
                for job, held in list(self.rules.jobs.items()):
                    if held.report.state in EXECUTING:
                        self.ask_machine(job)
                await self.finish_turn()
            elif event[0] is self.link and event[0].code is None:
                try:
                    await self.hear(*event)
                except MustClose as why:
                    await self.finish_turn()
                    await event[0].close(why.code, why.text)

    def ask_machine(self, job: bytes) -> None:
        report = self.rules.jobs[job].report
        self.rules.machine_says(job, self.machine.probe(job, report.attempt, report.run))

    async def hear(self, link: Link, commit: int, message: Message) -> None:
        rules = self.rules
        if link.awaits is None:
            rules.live(commit, message)
            await self.finish_turn()
        elif isinstance(message, Refuse):
            link.refused = message
            raise MustClose(CLOSE_CODES[message.code], message.text)
        elif not isinstance(message, link.awaits):
            raise MustClose(4400, f"a {type(message).__name__} came out of order")
        elif isinstance(message, Challenge):
            rules.challenge(message)
            await self.finish_turn()
            link.session, link.awaits = rules.memory.session, Welcome
            hello = rules.hello()
            signature = self.key.sign(signed_bytes(message.nonce, hello))
            await link.send(hello, Signature(signature[:32], signature[32:]))
        elif isinstance(message, Welcome) and message.session == link.session:
            rules.welcome(message)
            await self.finish_turn(link)

    async def finish_turn(self, welcomed: Optional[Link] = None) -> None:
        """What the rules have decided: to disk, then to the master, then to the machine."""
        rules = self.rules
        rules.settle()
        messages, commands = rules.outgoing, rules.commands
        rules.outgoing, rules.commands = [], []
        await self.save()
        if welcomed:
            await welcomed.send(rules.settled())
            welcomed.awaits = None
            welcomed.was_live.set()
            log.info("live in session %s", welcomed.session)
        elif self.link and self.link.awaits is None:
            for message in messages:
                await self.link.send(message)
        for command in commands:
            said = await asyncio.to_thread(self.machine.do, command)
            if said is not None:
                rules.machine_says(command.job, said)
                self.events.put_nowait(None)

    async def save(self) -> None:
        text = json.dumps(codec(Memory).plain(self.rules.durable()), indent=1)
        if text != self.saved:
            await asyncio.to_thread(write_durably, self.state, text)
            self.saved = text

    async def look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self.events.empty():
                self.events.put_nowait(None)

    # ---- The link ----

    async def dial(self) -> None:
        failures = 0
        while True:
            code, retry_after = None, None
            try:
                socket = await Dial(self.arguments.master, subprotocols=[SUBPROTOCOL], compression=None, proxy=None,
                                    max_size=MAX_MESSAGE, ping_interval=None, open_timeout=HANDSHAKE_S,
                                    close_timeout=2)
            except InvalidStatus as answer:
                log.info("the master's listener answered %s", answer)
                words = answer.response.headers.get("Retry-After", "")
                retry_after = int(words) if answer.response.status_code == 503 and words.isdecimal() else None
            except (OSError, asyncio.TimeoutError, WebSocketException) as error:
                log.info("no link: %s", error)
            else:
                link = self.link = Link(socket)
                await self.attend(link)
                self.link = None
                code = socket.close_code if link.code is None else link.code
                if link.refused and link.refused.retry_after_ms is not None:
                    retry_after = link.refused.retry_after_ms / 1000
                log.info("the link ended with %s", code)
                if link.was_live.is_set() and code != 4429:
                    failures = 0
            longest = self.arguments.longest_pause
            if retry_after is not None:
                pause = min(retry_after, RETRY_AFTER_AT_MOST_S) + random.uniform(0, FIRST_PAUSE_S)
            elif code in NEEDS_A_PERSON:
                pause = random.uniform(0.75 * longest, longest)
            else:
                pause = random.uniform(0, min(longest, FIRST_PAUSE_S * 2 ** min(failures, 16)))
            failures += 1
            await asyncio.sleep(pause)

    async def attend(self, link: Link) -> None:
        beside = [asyncio.create_task(task) for task in (self.heartbeat(link), self.hurry(link))]
        try:
            if link.socket.subprotocol != SUBPROTOCOL:
                raise MustClose(4400, "it does not speak reloop.v1")
            while True:
                data = await asyncio.wait_for(link.socket.recv(), self.arguments.dead_after)
                if isinstance(data, str):
                    raise MustClose(4400, "a text message")
                frame = decode(data)
                if isinstance(frame.message, Ping):
                    await link.send(Pong())
                elif isinstance(frame.message, Pong):
                    pass
                elif frame.session == link.session or isinstance(frame.message, Refuse) and frame.session == 0:
                    self.events.put_nowait((link, frame.commit, frame.message))
        except MustClose as why:
            await link.close(why.code, why.text)
        except Malformed as why:
            await link.close(4400, str(why))
        except asyncio.TimeoutError:
            await link.close(4000, f"nothing was heard for {self.arguments.dead_after} s")
        except asyncio.QueueFull:
            await link.close(4429, "more than can be read")
        except ConnectionClosed:
            pass
        finally:
            for task in beside:
                task.cancel()

    async def heartbeat(self, link: Link) -> None:
        while True:
            await asyncio.sleep(self.arguments.heartbeat * random.uniform(0.8, 1.2))
            await link.send(Ping())

    async def hurry(self, link: Link) -> None:
        try:
            await asyncio.wait_for(link.was_live.wait(), HANDSHAKE_S)
        except asyncio.TimeoutError:
            await link.close(4408, "no handshake in time")


class Dial(connect):
    def process_redirect(self, exc: Exception) -> Exception:
        """A slave goes where it was sent, and nowhere else: a redirect is a failed try as any other status."""
        return exc


# ---- What is at hand when it starts ----

def clocks() -> Now:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    return Now(bytes.fromhex(boot), time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000, milliseconds())


def open_key(path: Path) -> Tuple[Ed25519PrivateKey, bool]:
    """The key, and whether it was made just now. It lies apart from the state: see 11.5."""
    if path.exists():
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text())), False
    key = Ed25519PrivateKey.generate()
    os.umask(0o077)
    write_durably(path, key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()).hex())
    return key, True


def open_memory(path: Path, fresh_key: bool) -> Memory:
    try:
        return codec(Memory).parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        aside = path.with_name(f"state.unreadable.{milliseconds()}")
        log.error("the state cannot be read and is set aside as %s: %s", aside, error)
        os.replace(path, aside)
    now = milliseconds()
    memory = Memory(store=now.to_bytes(6, "big") + os.urandom(10))
    if not fresh_key:
        memory.attention = Attention.store_replaced
    return memory


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A slave of Reloop with a simulated machine: program sleep, parameters "
                                                 "seconds and fail.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--master", required=True, help="ws://host:port/v1/link")
    parser.add_argument("--state", required=True, help="the directory for its key and all it knows about its jobs")
    parser.add_argument("--capacity", type=int, default=4, help="how many jobs it keeps that could start (4)")
    parser.add_argument("--deferred-capacity", type=int, default=16, help="how many it keeps besides that wait (16)")
    parser.add_argument("--release", choices=["auto", "ack"], default="auto")
    parser.add_argument("--token", help="a token made by `reloop slave enroll-token`")
    parser.add_argument("--trust-clock", action="store_true", help="the wall clock is right also after a reboot")
    parser.add_argument("--heartbeat", type=float, default=15, metavar="SECONDS")
    parser.add_argument("--dead-after", type=float, default=45, metavar="SECONDS")
    parser.add_argument("--longest-pause", type=float, default=60, metavar="SECONDS", help="between two tries to connect")
    given = parser.parse_args()
    if urlsplit(given.master).scheme not in ("ws", "wss"):
        parser.error("--master begins with ws:// or wss://")
    return given


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)
    try:
        asyncio.run(Agent(arguments()).run())
    except OSError as error:
        log.error("%s; nothing more is said or started, and the machine goes on", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
