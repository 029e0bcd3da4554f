"""The agents: where they are, how each is told to do the same work, and how its messages are read.

The work: D Modbus TCP devices, a connection each, 50 holding registers of each read once a second and published to the
broker with QoS 1. Beyond that each agent keeps its defaults; where it does not, a comment says why.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2

from process import Command
from world import GATEWAY_USER, SBIN, Reading, free_port, which

REGISTERS = 50
PERIOD_MS = 1000


@dataclass(frozen=True)
class Work:
    """What is to be read, where it goes, and a folder of the agent's own."""

    folder: Path
    devices: int
    devices_port: int
    broker_port: int


class Agent(ABC):
    """One of those that are compared."""

    name: str
    """As `--agents` takes it."""
    title: str
    """As the table shows it."""
    settles_s: float = 8.0
    """How long it is left alone once something of each device has arrived."""

    @abstractmethod
    def missing(self) -> str | None:
        """What is not installed, None where all is."""

    @abstractmethod
    def version(self) -> str:
        """What is measured."""

    @abstractmethod
    def prepare(self, work: Work) -> Command:
        """Writes the configuration."""

    @abstractmethod
    def readings(self, topic: str, payload: bytes) -> Iterator[Reading]:
        """The readings that a message carries."""

    def reply(self, topic: str, payload: bytes) -> tuple[str, bytes] | None:
        """What its server would answer to a message: topic and payload."""
        del topic, payload
        return None


class SolarNode(Agent):
    """Ours, over MQTT without TLS, as the others."""

    NODE = 1
    # Once in a node's life the queue prepares its files up to its limit, one of 1 MiB in 1 to 1.5 s. With the default
    # limit that would be nearly all that a window sees written; with this one it is over before.
    QUEUE_MIB = 16
    settles_s = QUEUE_MIB * 1.5 + 4.0

    def __init__(self, program: Path, phase: str) -> None:
        self.name = "solarnode" if phase == "spread" else f"solarnode-{phase}"
        self.title = "solarnode-agent" if phase == "spread" else f"solarnode-agent, {phase}"
        self._program = program
        self._phase = phase

    def missing(self) -> str | None:
        return None if self._program.is_file() else f"{self._program}: cargo build --release"

    def version(self) -> str:
        return _said(self._program, "--version")

    def prepare(self, work: Work) -> Command:
        self._anchor(work.folder / "state")
        config = work.folder / "agent.toml"
        config.write_text(
            f'state_dir = "{work.folder}/state"\n'
            f"[node]\nid = {self.NODE}\n"
            f'[queue]\nlimit = "{self.QUEUE_MIB} MiB"\n'
            '[upload]\nvia = "mqtt"\nfallback_after = "never"\n'
            f'[mqtt]\nurl = "mqtt://127.0.0.1:{work.broker_port}"\n'
            + "".join(self._link(work, device) for device in range(1, work.devices + 1))
        )
        return Command([self._program, "run", "--config", config])

    @staticmethod
    def _anchor(state: Path) -> None:
        """Tells it the time, which no server here does: it does not send what it cannot date.

        On a node that is NTP, or the date in an answer of SolarNetwork.
        """
        state.mkdir()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = datetime.now(UTC) - timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME))
        anchor = {"boot": boot, "started": started.isoformat()}
        (state / "clock.json").write_text(json.dumps({"anchors": [anchor]}))

    def _link(self, work: Work, device: int) -> str:
        def prop(name: str, kind: str, address: int, type_: str) -> str:
            register = f'{{ table = "holding", address = {address}, type = "{type_}" }}'
            return f'  {{ name = "{name}", kind = "{kind}", register = {register} }},\n'

        others = "".join(prop(f"r{at}", "instantaneous", at, "u16") for at in range(2, REGISTERS))
        return (
            f'[[modbus]]\nname = "device {device}"\ntcp = "127.0.0.1:{work.devices_port}"\n'
            f'[[modbus.unit]]\nid = {device}\nsource = "{device}"\n'
            f'every = "{PERIOD_MS}ms"\nphase = "{self._phase}"\n'
            f"property = [\n{prop('reads', 'accumulating', 0, 'u32')}{others}]\n"
        )

    def readings(self, topic: str, payload: bytes) -> Iterator[Reading]:
        if topic == f"node/{self.NODE}/datum":
            datum = cbor2.loads(payload)
            yield int(datum["sourceId"]), int(datum["a"]["reads"])


class ThingsBoardGateway(Agent):
    """thingsboard-gateway: each device's registers as one block, its rate limits off."""

    ENTRY = "from thingsboard_gateway.tb_gateway import main; main()"
    LIMITS = (
        "rateLimits",
        "dpRateLimits",
        "messagesRateLimits",
        "deviceMessagesRateLimits",
        "deviceRateLimits",
        "deviceDpRateLimits",
    )

    def __init__(self, peers: Path, store: str) -> None:
        self.name = "tbgw" if store == "sqlite" else f"tbgw-{store}"
        self.title = f"ThingsBoard gateway, {'SQLite' if store == 'sqlite' else store} store"
        self._python = peers / "tbgw/bin/python"
        self._store = store

    def missing(self) -> str | None:
        return None if self._python.exists() else f"ThingsBoard gateway ({self._python})"

    def version(self) -> str:
        script = "from importlib.metadata import version; print(version('thingsboard-gateway'))"
        return f"thingsboard-gateway {_said(self._python, '-c', script)}"

    def prepare(self, work: Work) -> Command:
        config, logs, data = (work.folder / name for name in ("config", "logs", "data"))
        for folder in (config, logs, data):
            folder.mkdir()
        own = next(self._python.parents[1].glob("lib/python*/site-packages/thingsboard_gateway/config"))
        gateway = json.loads((own / "tb_gateway.json").read_text())
        gateway["thingsboard"].update(
            host="127.0.0.1",
            port=work.broker_port,
            remoteConfiguration=False,
            security={"type": "accessToken", "accessToken": GATEWAY_USER},
            **dict.fromkeys(self.LIMITS, "0:0,"),
        )
        # Its default holds readings in memory; SQLite is its best against a kill. Room for all either way.
        gateway["storage"] = {
            "type": self._store,
            "data_file_path": f"{data}/",
            "read_records_count": 1000,
            "max_records_count": 1_000_000,
            "messages_ttl_in_days": 7,
        }
        gateway["connectors"] = [{"type": "modbus", "name": "modbus", "configuration": "modbus.json"}]
        (config / "tb_gateway.json").write_text(json.dumps(gateway, indent=2))
        slaves = [self._slave(work, device) for device in range(1, work.devices + 1)]
        (config / "modbus.json").write_text(json.dumps({"master": {"slaves": slaves}}, indent=2))
        # Only what goes wrong is logged, as with the others.
        levels = (own / "logs.json").read_text().replace("DEBUG", "WARNING").replace("INFO", "WARNING")
        (config / "logs.json").write_text(levels)
        environment = {"TB_GW_CONFIG_DIR": str(config), "TB_GW_LOGS_PATH": str(logs)}
        return Command([self._python, "-c", self.ENTRY], environment)

    @staticmethod
    def _slave(work: Work, device: int) -> dict[str, Any]:
        block = {
            "tag": "r${address}",
            "type": "16uint",
            "functionCode": 3,
            "objectsCount": 1,
            "address": f"0-{REGISTERS - 1}",
            "maxRegistersPerRequest": REGISTERS,
        }
        return {
            "host": "127.0.0.1",
            "port": work.devices_port,
            "type": "tcp",
            "method": "socket",
            "unitId": device,
            "deviceName": f"device{device}",
            "deviceType": "default",
            "timeout": 5,
            "byteOrder": "BIG",
            "wordOrder": "BIG",
            "retries": 3,
            "retryOnEmpty": True,
            "retryOnInvalid": True,
            "pollPeriod": PERIOD_MS,
            "connectAttemptTimeMs": 500,
            "connectAttemptCount": 5,
            "waitAfterFailedAttemptsMs": 1000,
            "attributes": [],
            "timeseries": [block],
            "attributeUpdates": [],
            "rpc": [],
        }

    def readings(self, topic: str, payload: bytes) -> Iterator[Reading]:
        if topic != "v1/gateway/telemetry":
            return
        for device, rows in json.loads(payload).items():
            for row in rows:
                values = row["values"]
                # A message may end between the registers of a reading; the rest comes in the next.
                if "r0" in values and "r1" in values:
                    yield int(device.removeprefix("device")), values["r0"] << 16 | values["r1"]

    def reply(self, topic: str, payload: bytes) -> tuple[str, bytes] | None:
        if "/rpc/request/" not in topic or b"getSessionLimits" not in payload:
            return None
        none = {"messages": "", "telemetryMessages": "", "telemetryDataPoints": ""}
        limits = {"maxPayloadSize": 65536, "maxInflightMessages": 100, "rateLimits": {}, "gatewayRateLimits": none}
        return topic.replace("request", "response"), json.dumps(limits).encode()


class NodeRed(Agent):
    """Node-RED with node-red-contrib-modbus: a flow a device, read → function → mqtt out."""

    name = "nodered"
    title = "Node-RED"

    def __init__(self, peers: Path) -> None:
        self._folder = peers / "nodered"

    def missing(self) -> str | None:
        if not which("node"):
            return "Node.js (node)"
        program = self._folder / "node_modules/node-red/red.js"
        return None if program.exists() else f"Node-RED ({program})"

    def version(self) -> str:
        packages = ("node-red", "node-red-contrib-modbus")
        files = [self._folder / "node_modules" / package / "package.json" for package in packages]
        versions = [json.loads(file.read_text())["version"] for file in files]
        named = [f"{package} {version}" for package, version in zip(packages, versions, strict=True)]
        return ", ".join([*named, f"Node.js {_said('node', '--version')}"])

    def prepare(self, work: Work) -> Command:
        (work.folder / "node_modules").symlink_to(self._folder / "node_modules")
        (work.folder / "package.json").write_text((self._folder / "package.json").read_text())
        broker = {
            "id": "broker",
            "type": "mqtt-broker",
            "broker": "127.0.0.1",
            "port": str(work.broker_port),
            "clientid": "node-red",
            "autoConnect": True,
            "usetls": False,
            "protocolVersion": "4",
            "keepalive": "60",
            "cleansession": False,
        }
        out = {
            "id": "out",
            "type": "mqtt out",
            "z": "flow",
            "topic": "",
            "qos": "1",
            "retain": "false",
            "broker": "broker",
            "wires": [],
        }
        nodes: list[dict[str, Any]] = [{"id": "flow", "type": "tab", "label": "flow"}, broker, out]
        for device in range(1, work.devices + 1):
            nodes += self._device(work, device)
        (work.folder / "flows.json").write_text(json.dumps(nodes))
        settings = work.folder / "settings.js"
        settings.write_text(
            f"module.exports = {{ uiPort: {free_port()}, uiHost: '127.0.0.1', flowFile: 'flows.json',\n"
            "  credentialSecret: false, telemetry: { enabled: false }, logging: { console: { level: 'warn' } } };\n"
        )
        program = self._folder / "node_modules/node-red/red.js"
        return Command(["node", program, "--userDir", work.folder, "--settings", settings])

    @staticmethod
    def _device(work: Work, device: int) -> list[dict[str, Any]]:
        client = {
            "id": f"client{device}",
            "type": "modbus-client",
            "clienttype": "tcp",
            "bufferCommands": True,
            "stateLogEnabled": False,
            "queueLogEnabled": False,
            "failureLogEnabled": True,
            "tcpHost": "127.0.0.1",
            "tcpPort": str(work.devices_port),
            "tcpType": "DEFAULT",
            "unit_id": str(device),
            "commandDelay": "1",
            "clientTimeout": "1000",
            "reconnectOnTimeout": True,
            "reconnectTimeout": "2000",
            "parallelUnitIdsAllowed": True,
        }
        read = {
            "id": f"read{device}",
            "type": "modbus-read",
            "z": "flow",
            "unitid": str(device),
            "dataType": "HoldingRegister",
            "adr": "0",
            "quantity": str(REGISTERS),
            "rate": str(PERIOD_MS),
            "rateUnit": "ms",
            "server": client["id"],
            "wires": [[f"message{device}"], []],
        }
        code = f"return {{topic: 'device', payload: JSON.stringify({{d: {device}, t: Date.now(), v: msg.payload}})}};"
        message = {
            "id": f"message{device}",
            "type": "function",
            "z": "flow",
            "func": code,
            "outputs": 1,
            "wires": [["out"]],
        }
        return [client, read, message]

    def readings(self, topic: str, payload: bytes) -> Iterator[Reading]:
        if topic == "device":
            reading = json.loads(payload)
            yield reading["d"], reading["v"][0] << 16 | reading["v"][1]


class Collectd(Agent):
    """collectd with its modbus and mqtt plugins. It has no reading of a block: a request and a message a value."""

    name = "collectd"
    title = "collectd"
    TYPES = Path("/usr/share/collectd/types.db")
    PLUGINS = ("modbus.so", "mqtt.so")

    def missing(self) -> str | None:
        if not which("collectd"):
            return "collectd"
        folders = [*Path("/usr/lib").glob("collectd"), *Path("/usr/lib").glob("*/collectd")]
        absent = [name for name in self.PLUGINS if not any((folder / name).exists() for folder in folders)]
        return f"collectd's {absent[0]}" if absent else None

    def version(self) -> str:
        found = re.search(r"^collectd (\S+?),", _said(which("collectd") or "collectd", "-h"), re.MULTILINE)
        return f"collectd {found[1] if found else 'of unknown version'}"

    def prepare(self, work: Work) -> Command:
        def data(name: str, address: int, type_: str) -> str:
            return (
                f'<Data "{name}">\nRegisterBase {address}\nRegisterType {type_}\nRegisterCmd ReadHolding\n'
                f'Type gauge\nInstance "{name}"\n</Data>\n'
            )

        names = ["reads", *(f"r{at}" for at in range(2, REGISTERS))]
        collect = "".join(f'Collect "{name}"\n' for name in names)
        hosts = "".join(
            f'<Host "host{device}">\nAddress "127.0.0.1"\nPort "{work.devices_port}"\nInterval {PERIOD_MS / 1000}\n'
            f'<Slave {device}>\nInstance "device{device}"\n{collect}</Slave>\n</Host>\n'
            for device in range(1, work.devices + 1)
        )
        registers = "".join(data(f"r{at}", at, "uint16") for at in range(2, REGISTERS))
        config = work.folder / "collectd.conf"
        config.write_text(
            f'Hostname "site"\nFQDNLookup false\nBaseDir "{work.folder}"\nPIDFile "{work.folder}/pid"\n'
            f'TypesDB "{self.TYPES}"\nInterval {PERIOD_MS / 1000}\nReadThreads 8\nWriteThreads 2\n'
            f'LoadPlugin logfile\n<Plugin logfile>\nLogLevel warning\nFile "{work.folder}/collectd.log"\n</Plugin>\n'
            f"LoadPlugin modbus\n<Plugin modbus>\n{data('reads', 0, 'uint32')}{registers}{hosts}</Plugin>\n"
            f'LoadPlugin mqtt\n<Plugin mqtt>\n<Publish "broker">\nHost "127.0.0.1"\nPort {work.broker_port}\n'
            'QoS 1\nStoreRates false\nPrefix "collectd"\n</Publish>\n</Plugin>\n'
        )
        return Command([which("collectd") or f"{SBIN}/collectd", "-f", "-C", config])

    def readings(self, topic: str, payload: bytes) -> Iterator[Reading]:
        found = re.search(r"/modbus-device(\d+)/gauge-reads$", topic)
        if found:
            # "1700000000.123:42" and a zero byte.
            yield int(found[1]), int(float(payload.rstrip(b"\0").split(b":")[1]))


def all_agents(program: Path, peers: Path) -> list[Agent]:
    """Every agent in the order of the tables: `program` is ours, `peers` the folder that setup.sh filled."""
    return [
        SolarNode(program, "spread"),
        SolarNode(program, "aligned"),
        ThingsBoardGateway(peers, "sqlite"),
        ThingsBoardGateway(peers, "memory"),
        NodeRed(peers),
        Collectd(),
    ]


def _said(program: str | Path, *arguments: str) -> str:
    """The output of a program that tells its version, whatever its exit code."""
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False).stdout.strip()
