"""A simulated machine: it sleeps. It stands for a controller with a memory of its own.

Like a real one it works whether or not an agent watches, and can be asked about what it was told to do: it notes each
start in its own file before it begins. What is not in that file never began; where there is no file, nobody knows.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, Dict, Optional

from reloop_rules import CannotSay, Command, CouldNotBegin, Ended, LetGo, NeverBegan, Said, Start, Stop, Works
from reloop_wire import End


def write_durably(path: Path, text: str) -> None:
    """The whole new file or the whole old one, also after a power cut."""
    fresh = path.with_suffix(".new")
    with open(fresh, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


class Machine:
    def __init__(self, directory: Path) -> None:
        self.path, self.log = directory / "machine.json", directory / "machine.log"

    def do(self, command: Command) -> Optional[CouldNotBegin]:
        """Gives an answer only if it could not begin what it was told to start."""
        work = self.memory() or {}
        if isinstance(command, LetGo):
            work = {key: begun for key, begun in work.items() if not key.startswith(command.job.hex())}
        else:
            key = f"{command.job.hex()}/{command.attempt}/{command.run}"
            if isinstance(command, Start):
                if key in work:
                    raise RuntimeError(f"{key} was started before")
                length = round(1000 * float(command.params["seconds"]))
                work[key] = {"began": milliseconds(), "length": length, "fail": command.params.get("fail") == "yes",
                             "stopped": None}
                # What a person beside the machine would have seen.
                with open(self.log, "a", encoding="utf-8") as log:
                    log.write(f"start {key}\n")
                try:
                    write_durably(self.path, json.dumps(work))
                except OSError as error:
                    if isinstance(self.probe(command.job, command.attempt, command.run), NeverBegan):
                        return CouldNotBegin(str(error))
                    raise
                return None
            elif isinstance(command, Stop) and key in work and work[key]["stopped"] is None:
                work[key]["stopped"] = milliseconds()
        write_durably(self.path, json.dumps(work))
        return None

    def probe(self, job: bytes, attempt: int, run: int) -> Said:
        work = self.memory()
        if work is None:
            return CannotSay()
        begun = work.get(f"{job.hex()}/{attempt}/{run}")
        if begun is None:
            return NeverBegan()
        end, now = begun["began"] + begun["length"], milliseconds()
        if begun["stopped"] is not None and begun["stopped"] < end:
            return Ended(End.stopped, begun["began"], begun["stopped"], "stopped")
        if end <= now:
            word, text = (End.failed, "it failed, as told") if begun["fail"] else (End.succeeded, "")
            return Ended(word, begun["began"], end, text)
        return Works(1000 * (now - begun["began"]) // begun["length"], begun["began"])

    def memory(self) -> Optional[Dict[str, Any]]:
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
