"""Writers, readers and pruners on one cache directory at once: ``python -m tests.stress.cache_stress --seconds 60``.

Every entry that is read must be one that was written, whole; the audit must find nothing, at any time. With ``--kills``
writers are also killed with SIGKILL and started anew; then the audit is made at the end, after a prune.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tests.cpu.cache.support import PATIENCE, SPAWN, entry, key, open_at
from trt_stripped_backend.cache import EngineCache

KEYS = 24
LIMIT = 600_000


def write(cache: EngineCache, chance: random.Random, done: Counter[str]) -> None:
    of = key(chance.randrange(KEYS))
    one = entry(of, chance.randrange(80_000), seed=chance.randrange(1000))
    done["stored" if cache.put(of, one) else "NOT STORED"] += 1


def read(cache: EngineCache, chance: random.Random, done: Counter[str]) -> None:
    of = key(chance.randrange(KEYS))
    found = cache.get(of)
    if found is None:
        done["missed"] += 1
    else:
        whole = found == entry(of, len(found.plan), seed=found.header["seed"])
        done["read" if whole else "BAD ENTRY"] += 1


def prune(cache: EngineCache, chance: random.Random, done: Counter[str]) -> None:
    done["pruned"] += cache.prune(chance.randrange(LIMIT // 4, LIMIT)).entries
    cache.entries()
    if chance.randrange(20) == 0:
        (cache.dirs[0] / "cache.db").unlink(missing_ok=True)
    if chance.randrange(20) == 0:
        cache.clear()


def audit(cache: EngineCache, chance: random.Random, done: Counter[str]) -> None:
    problems = cache.check()
    done["audited"] += 1
    done.update(f"PROBLEM {problem}" for problem in problems)


ROLES = {"write": write, "read": read, "prune": prune, "audit": audit}


def play(role: str, seed: int, directory: Path, deadline: float, turns: int, told: Connection) -> None:
    """One process: its role over and over, until the time or the number of turns is up; tells what it did."""
    cache = open_at(directory, size_limit=LIMIT)
    chance = random.Random(f"{role} {seed}")
    done: Counter[str] = Counter()
    while time.monotonic() < deadline and turns != 0:
        ROLES[role](cache, chance, done)
        turns -= 1
    told.send(done)


def run(counts: dict[str, int], *, seconds: float, turns: int, kills: int, seed: int, directory: Path) -> Counter[str]:
    """Plays all roles; what they did, in capitals what they should not have done."""
    deadline = time.monotonic() + seconds
    pipes: dict[Connection, tuple[str, int, object]] = {}
    total: Counter[str] = Counter()
    chance = random.Random(seed)

    def start(role: str, number: int) -> None:
        ours, theirs = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=play, args=(role, number, directory, deadline, turns, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes[ours] = (role, number, process)

    for role, count in counts.items():
        for number in range(count):
            start(role, seed + number)
    pause = seconds / (kills + 1)
    while pipes:
        ready = wait(list(pipes), timeout=pause if kills else seconds + PATIENCE)
        if not ready and not kills:
            raise TimeoutError(f"hung: {[name for name, _, _ in pipes.values()]}")
        for pipe in ready:
            role, number, process = pipes.pop(pipe)
            try:
                total.update(pipe.recv())
            except EOFError:  # killed
                total["killed"] += 1
                start(role, number + 1000)
            pipe.close()
            process.join(PATIENCE)
        writers = [process for role, _, process in pipes.values() if role == "write"]
        if not ready and kills and writers:
            kills -= 1
            os.kill(chance.choice(writers).pid, signal.SIGKILL)
    return total


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--turns", type=int, default=-1, help="end each process after so many turns")
    parser.add_argument("--kills", type=int, default=0, help="how many writers to kill")
    parser.add_argument("--seed", type=int, default=0)
    for role, count in {"write": 2, "read": 2, "prune": 1, "audit": 1}.items():
        parser.add_argument(f"--{role}", type=int, default=count, help=f"processes that {role}")
    given = parser.parse_args(argv)
    counts = {role: getattr(given, role) for role in ROLES}
    if given.kills:
        counts["audit"] = 0
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "cache"
        total = run(
            counts, seconds=given.seconds, turns=given.turns, kills=given.kills, seed=given.seed, directory=directory
        )
        cache = open_at(directory, size_limit=LIMIT)
        if given.kills:
            cache.prune()
        audit(cache, random.Random(), total)
    print(f"seed {given.seed}: " + ", ".join(f"{count} {what}" for what, count in sorted(total.items())))
    return 1 if any(what[:3].isupper() for what in total) else 0


if __name__ == "__main__":
    sys.exit(main())
