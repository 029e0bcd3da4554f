"""A Modbus server by pymodbus, with units that behave and units that do not.

The argument says how it is reached: `tcp`, `rtu` (RTU frames over TCP), or the path of a serial port (19,200 baud).
Prints the port it listens on, 0 for a serial one, then serves until its standard input is closed.

    unit 1   well: the registers below
    unit 2   silent: never answers
    unit 3   answers as unit 99
    unit 4   answers every read with exception 4, whatever is asked
    unit 5   slow: answers after five seconds
    unit 6   well, but holding register 12 does not exist

Holding registers of units 1, 5 and 6, and the same as input registers from 100 on:

    0      u16 2301          1      i16 -5          2..3   f32 230.1
    4..5   u32 305419896     6..9   u64 2^64 - 1    10     u16 0xFFFF ("not available")
    11     u16 0x0240        12     u16 7           13..16 text "SN-0042 "
    20     u16 0, to be written

Coils 0..7 are 1 0 1 1 0 0 0 1, discrete inputs their opposites.
"""

import asyncio
import struct
import sys

from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerRTU, FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

SILENT, IMPOSTOR, FAILING, SLOW, HOLED = 2, 3, 4, 5, 6
BITS = [True, False, True, True, False, False, False, True]


def words(form, value):
    data = struct.pack(">" + form, value)
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


REGISTERS = (
    [2301]
    + words("h", -5)
    + words("f", 230.1)
    + words("I", 0x12345678)
    + words("Q", 2**64 - 1)
    + [0xFFFF, 0x0240, 7]
    + words("8s", b"SN-0042 ")
    + [0, 0, 0, 0]
)


async def fail(function, start, address, count, registers, values):
    return ExcCodes.DEVICE_FAILURE


async def dawdle(function, start, address, count, registers, values):
    await asyncio.sleep(5)
    return None


def device(unit, action=None):
    holding = [SimData(0, values=REGISTERS, datatype=DataType.REGISTERS)]
    if unit == HOLED:
        holding = [
            SimData(0, values=REGISTERS[:12], datatype=DataType.REGISTERS),
            SimData(13, values=REGISTERS[13:], datatype=DataType.REGISTERS),
        ]
    opposite = [not bit for bit in BITS]
    return SimDevice(
        unit,
        simdata=(
            [SimData(0, values=BITS, datatype=DataType.BITS)],
            [SimData(0, values=opposite, datatype=DataType.BITS)],
            holding,
            [SimData(100, values=REGISTERS, datatype=DataType.REGISTERS)],
        ),
        action=action,
    )


def meddle_at(unit_at, around):
    """What drops the silent unit's answers and puts a foreign address onto the impostor's; the address is at `unit_at`."""

    def meddle(sending, packet):
        if sending and packet[unit_at] == SILENT:
            return b""
        if sending and packet[unit_at] == IMPOSTOR:
            return around(packet[:unit_at] + bytes([99]) + packet[unit_at + 1 :])
        return packet

    return meddle


def checksummed(frame):
    crc = FramerRTU.compute_CRC(frame[:-2])
    return frame[:-2] + crc.to_bytes(2, "big")


async def main(link):
    actions = {FAILING: fail, SLOW: dawdle}
    devices = [device(unit, actions.get(unit)) for unit in range(1, 7)]
    if link == "tcp":
        meddle = meddle_at(6, lambda frame: frame)
        server = ModbusTcpServer(devices, address=("127.0.0.1", 0), trace_packet=meddle)
    else:
        rtu = {"framer": FramerType.RTU, "trace_packet": meddle_at(0, checksummed)}
        if link == "rtu":
            server = ModbusTcpServer(devices, address=("127.0.0.1", 0), **rtu)
        else:
            server = ModbusSerialServer(devices, port=link, baudrate=19200, **rtu)
    await server.serve_forever(background=True)
    sockets = getattr(server.transport, "sockets", None)
    print(sockets[0].getsockname()[1] if sockets else 0, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.shutdown()


asyncio.run(main(sys.argv[1]))
