"""What every agent is given to work with: a disk, devices that count their reads, a broker, a collector behind it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

# Where Debian puts daemons, which an ordinary user's PATH does not name.
SBIN = "/usr/sbin"

# What ThingsBoard's gateway publishes and hears. A plain broker would give it its own requests back, so its user may
# only write the first and only hear the second; ThingsBoard itself answers on the second.
GATEWAY_WRITES = (
    "v1/gateway/telemetry",
    "v1/gateway/connect",
    "v1/gateway/disconnect",
    "v1/gateway/attributes",
    "v1/devices/me/telemetry",
    "v1/devices/me/attributes",
    "v1/devices/me/attributes/request/#",
    "v1/devices/me/rpc/request/#",
)
GATEWAY_HEARS = ("v1/devices/me/rpc/response/#", "v1/devices/me/attributes/response/#")
GATEWAY_USER = "gateway"
COLLECTOR_USER = "collector"

Reading = tuple[int, int]
"""A device, from 1, and what its counter of reads said."""


def which(program: str) -> str | None:
    """The path of a program, or None where it is not installed."""
    return shutil.which(program) or shutil.which(program, path=SBIN)


def _do(program: str, *arguments: str | Path) -> str:
    """Runs a program to its end and gives back its output."""
    done = subprocess.run([which(program) or program, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def free_port() -> int:
    """A port of the loopback interface that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Disk:
    """An ext4 of the agent's own, on a loop device over a file in memory. The device counts what is written to it.

    `write_bytes` of a process will not do: it counts whole folios of the page cache, sixteen times what is written.
    """

    SIZE_MIB = 512

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="peers-", dir=memory if memory.is_dir() else None))
        image = self._folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(self.SIZE_MIB << 20)
        self.mounted = self._folder / "mounted"
        self.mounted.mkdir()
        # Nothing is left for the kernel to initialise while an agent is measured.
        _do("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
        _do("mount", "-o", "loop", image, self.mounted)
        device = _do("findmnt", "--noheadings", "--output", "SOURCE", self.mounted).strip()
        self._stat = Path("/sys/block") / Path(device).name / "stat"

    def written_bytes(self) -> int:
        """Bytes written to the device so far, after everything that waits has been: data, names and journal."""
        _do("sync", "--file-system", self.mounted)
        sectors = int(self._stat.read_text().split()[6])
        return sectors * 512

    def remove(self) -> None:
        """Unmounts it and frees the memory."""
        _do("umount", self.mounted)
        shutil.rmtree(self._folder)


class Devices:
    """The Modbus TCP devices of `sim/examples/devices.rs`, as a process of their own."""

    READ_INPUT = 4

    def __init__(self, program: Path, number: int) -> None:
        self.number = number
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout, "asked for above"
        self.port = int(self._process.stdout.readline().rsplit(":", 1)[1])
        self._socket = socket.create_connection(("127.0.0.1", self.port))

    def counts(self) -> list[int]:
        """How often each device has been read, the first device first."""
        return [self._count(unit) for unit in range(1, self.number + 1)]

    def _count(self, unit: int) -> int:
        self._socket.sendall(struct.pack(">HHHBBHH", 0, 0, 6, unit, self.READ_INPUT, 0, 2))
        answer = b""
        while len(answer) < 13:
            answer += self._socket.recv(13 - len(answer))
        return int.from_bytes(answer[9:], "big")

    def stop(self) -> None:
        """Ends the process."""
        self._socket.close()
        self._process.communicate()


class Broker:
    """A mosquitto that can be killed and comes back with what it had stored."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        folder.mkdir(parents=True)
        # Its store is read back after a kill: the collector's subscription is in it, so nothing that is published
        # before the collector is back goes past it. As root it would become a user who may not write here.
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\n"
            "allow_anonymous true\n"
            "user root\n"
            f"acl_file {folder}/acl\n"
            "persistence true\n"
            f"persistence_location {folder}/\n"
            "autosave_interval 2\n"
            "max_queued_messages 0\n"
            "max_inflight_messages 200\n"
        )
        everybody = ["topic readwrite #", f"user {COLLECTOR_USER}", "topic readwrite #"]
        gateway = [f"user {GATEWAY_USER}"]
        gateway += [f"topic write {topic}" for topic in GATEWAY_WRITES]
        gateway += [f"topic read {topic}" for topic in GATEWAY_HEARS]
        (folder / "acl").write_text("\n".join([*everybody, *gateway, ""]))
        (folder / "acl").chmod(0o600)
        self.start()

    def start(self) -> None:
        """Starts it and returns when it can be connected to."""
        with (self._folder / "mosquitto.log").open("a") as log:
            self._process = subprocess.Popen(
                [which("mosquitto") or "mosquitto", "-c", str(self._folder / "mosquitto.conf")],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise TimeoutError(f"the broker does not listen: see {self._folder}/mosquitto.log")

    def kill(self) -> None:
        """SIGKILL: it stores nothing and says goodbye to nobody."""
        self._process.kill()
        self._process.wait()


class Collector:
    """Hears all that is published and keeps which counts of which device arrived."""

    def __init__(
        self,
        broker_port: int,
        readings: Callable[[str, bytes], Iterable[Reading]],
        reply: Callable[[str, bytes], tuple[str, bytes] | None],
    ) -> None:
        self.seen: dict[int, set[int]] = {}
        self.messages = 0
        self.payload_bytes = 0
        self.strange: list[str] = []
        self._readings = readings
        self._reply = reply
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="collector", clean_session=False)
        self._client.username_pw_set(COLLECTOR_USER, "")
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_message = self._on_message
        # Its own way back must not count as an agent's delay.
        self._client.reconnect_delay_set(0.1, 0.1)  # type: ignore[arg-type]
        self._client.connect("127.0.0.1", broker_port)
        self._client.loop_start()

    def _on_message(self, client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        self.messages += 1
        self.payload_bytes += len(payload)
        try:
            for device, count in self._readings(topic, payload):
                self.seen.setdefault(device, set()).add(count)
            answer = self._reply(topic, payload)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            self.strange.append(f"{topic}: {error!r}")
            return
        if answer:
            client.publish(*answer, qos=1)

    def arrived(self) -> int:
        """How many different readings arrived."""
        return sum(len(counts) for counts in list(self.seen.values()))

    def missing(self, before: list[int], until: list[int]) -> int:
        """Of the readings after the counts `before` and up to the counts `until`: how many have not arrived."""
        return sum(
            1
            for device, (first, last) in enumerate(zip(before, until, strict=True), start=1)
            for count in range(first + 1, last + 1)
            if count not in self.seen.get(device, ())
        )

    def stop(self) -> None:
        """Disconnects."""
        self._client.disconnect()
        self._client.loop_stop()
