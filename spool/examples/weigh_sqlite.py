#!/usr/bin/env python3
"""The same work as weigh.rs in SQLite (WAL, synchronous=FULL), for comparison: same arguments, same line printed.

A row a datum, incremental vacuum, 2 MB of cache; what is delivered is deleted in a transaction of its own.
"""
import os
import sqlite3
import sys
import time

MASK = (1 << 64) - 1
MILLION = 1_000_000
NOISE = os.urandom(1 << 16)


def mixed(seq):
    value = (seq ^ seq >> 30) * 0xBF58476D1CE4E5B9 & MASK
    return ((value ^ value >> 27) * 0x94D049BB133111EB & MASK) >> 16


def payload(seq):
    length = (19 + mixed(seq) % 13 * 2) * 8
    at = mixed(seq + 7) % (len(NOISE) - length)
    return NOISE[at : at + length]


class Queue:
    def __init__(self, folder, device):
        os.makedirs(folder, exist_ok=True)
        self.folder, self.device = folder, device
        path = os.path.join(folder, "queue.db")
        is_new = not os.path.exists(path)
        self.db = sqlite3.connect(path, isolation_level=None)
        if is_new:
            self.db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-2000"):
            self.db.execute(f"PRAGMA {pragma}").fetchall()
        self.db.execute("CREATE TABLE IF NOT EXISTS q (id INTEGER PRIMARY KEY, body BLOB)")
        self.next = (self.db.execute("SELECT max(id) FROM q").fetchone()[0] or 0) + 1

    def append(self, count):
        rows = [(seq, payload(seq)) for seq in range(self.next, self.next + count)]
        self.db.execute("BEGIN")
        self.db.executemany("INSERT INTO q VALUES (?, ?)", rows)
        self.db.execute("COMMIT")
        self.next += count
        return sum(len(body) for _, body in rows)

    def read(self, first, count):
        return self.db.execute("SELECT id, body FROM q WHERE id >= ? ORDER BY id LIMIT ?", (first, count)).fetchall()

    def acknowledge(self, first, last):
        self.db.execute("DELETE FROM q WHERE id BETWEEN ? AND ?", (first, last))

    def vacuum(self):
        self.db.execute("PRAGMA incremental_vacuum").fetchall()

    def counters(self):
        os.sync()
        with open(f"/sys/block/{self.device}/stat", encoding="ascii") as stat:
            fields = [int(field) for field in stat.read().split()]
        return fields[6] * 512, fields[15]

    def done(self, before, begun, count):
        self.db.close()
        seconds = time.perf_counter() - begun
        after = self.counters()
        print(
            f"datum={count} seconds={seconds:.4f} bytes={after[0] - before[0]} flushes={after[1] - before[1]} "
            f"peak_kib={memory('VmHWM:')}"
        )


def memory(field):
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def grow(every, queue):
    count = 5000 if every == 1 else 20_000
    before, begun = queue.counters(), time.perf_counter()
    for _ in range(count // every):
        queue.append(every)
    queue.done(before, begun, count)


def steady(every, order, queue):
    window = []

    def cycle(number):
        first = queue.next
        for _ in range(100 // every):
            queue.append(every)
            if order == "proved":
                queue.acknowledge(queue.next - every, queue.next - 1)
        if order == "in-order":
            queue.acknowledge(first, queue.read(first, 100)[-1][0])
        elif order == "out-of-order":
            window.extend((first + i * 10, first + i * 10 + 9) for i in range(10))
            while len(window) > 10:
                at = mixed(number * 100 + len(window)) % len(window)
                window[at], window[-1] = window[-1], window[at]
                piece = window.pop()
                queue.read(piece[0], 10)
                queue.acknowledge(*piece)

    cycles = 60 if every == 1 else 300
    for number in range(cycles * 2):
        cycle(number)
    before, begun = queue.counters(), time.perf_counter()
    for number in range(cycles):
        cycle(number)
    queue.done(before, begun, cycles * 100)


def fill(queue):
    begun = time.perf_counter()
    size = sum(queue.append(64) for _ in range(MILLION // 64))
    disk = sum(entry.stat().st_size for entry in os.scandir(queue.folder))
    seconds = time.perf_counter() - begun
    print(f"datum={MILLION} payload={size} disk={disk} seconds={seconds:.4f} peak_kib={memory('VmHWM:')}", flush=True)
    os._exit(0)


def reopen(folder, device):
    begun = time.perf_counter()
    queue = Queue(folder, device)
    opened = (time.perf_counter() - begun) * 1000
    read = len(queue.read(0, 100))
    first = (time.perf_counter() - begun) * 1000
    records = queue.db.execute("SELECT count(*) FROM q").fetchone()[0]
    print(
        f"datum={records} read={read} open_ms={opened:.2f} first_ms={first:.2f} rss_kib={memory('VmRSS:')} "
        f"peak_kib={memory('VmHWM:')}",
        flush=True,
    )
    os._exit(0)


def drain(queue):
    before, begun = queue.counters(), time.perf_counter()
    count = 0
    while rows := queue.read(0, 1000):
        count += len(rows)
        queue.acknowledge(rows[0][0], rows[-1][0])
    queue.vacuum()
    queue.done(before, begun, count)


match sys.argv[1:]:
    case ["grow", every, folder, device]:
        grow(int(every), Queue(folder, device))
    case ["steady", every, order, folder, device]:
        steady(int(every), order, Queue(folder, device))
    case ["fill", folder, device]:
        fill(Queue(folder, device))
    case ["reopen", folder, device]:
        reopen(folder, device)
    case ["drain", folder, device]:
        drain(Queue(folder, device))
    case _:
        sys.exit("usage: weigh_sqlite.py grow N|steady N ORDER|fill|reopen|drain FOLDER DEVICE")
