"""A RealSense .bag (ROS bag 2.0, RealSense file version 3) written from nothing: the SDK only reads them.

The layout follows http://wiki.ros.org/Bags/Format/2.0; topics and messages are those of a recorded D400.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from handloom.capture.source import Image
from handloom.stores.camera import Camera

MD5 = {
    "std_msgs/UInt32": "304a39449588c7f8ce2df6e8001c5fce",
    "std_msgs/Float32": "73fcbf46b49191e672908e50842a83d4",
    "std_msgs/String": "992ce8a1687cec8c8bd883ec73ca41d1",
    "diagnostic_msgs/KeyValue": "cf57fdc6617a881a88c16e768132149c",
    "realsense_msgs/StreamInfo": "311d7e24eac31bb87271d041bf70ff7d",
    "sensor_msgs/CameraInfo": "c9a58c1b0b154e0e6da7578cb991d214",
    "sensor_msgs/Image": "060021388200f6f0f447d0fcd9c64743",
    "geometry_msgs/Transform": "ac9eff44abf714214112b05d54a3cf9b",
}
STATIC_NS = 1
SENSOR = "/device_0/sensor_0"


def string(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def stamp(t_ns: int) -> bytes:
    return struct.pack("<II", *divmod(t_ns, 1_000_000_000))


def record(fields: dict[str, bytes], data: bytes) -> bytes:
    header = b"".join(
        struct.pack("<I", len(name) + 1 + len(value)) + name.encode() + b"=" + value for name, value in fields.items()
    )
    return struct.pack("<I", len(header)) + header + struct.pack("<I", len(data)) + data


class Bag:
    """Messages of one bag, in one uncompressed chunk."""

    def __init__(self) -> None:
        self.connections: dict[str, tuple[int, bytes]] = {}
        self.chunk = b""
        self.index: dict[int, list[tuple[int, int]]] = {}

    def add(self, topic: str, kind: str, data: bytes, t_ns: int = STATIC_NS) -> None:
        if topic not in self.connections:
            number = len(self.connections)
            about = {"topic": topic.encode(), "type": kind.encode(), "md5sum": MD5[kind].encode()}
            described = b"".join(
                struct.pack("<I", len(name) + 1 + len(value)) + name.encode() + b"=" + value
                for name, value in {**about, "message_definition": b"x"}.items()
            )
            head = {"op": b"\x07", "conn": struct.pack("<I", number), "topic": topic.encode()}
            self.connections[topic] = number, record(head, described)
            self.chunk += self.connections[topic][1]
        number = self.connections[topic][0]
        self.index.setdefault(number, []).append((t_ns, len(self.chunk)))
        self.chunk += record({"op": b"\x02", "conn": struct.pack("<I", number), "time": stamp(t_ns)}, data)

    def write(self, path: Path) -> None:
        magic = b"#ROSBAG V2.0\n"
        size = struct.pack("<I", len(self.chunk))
        chunk = record({"op": b"\x05", "compression": b"none", "size": size}, self.chunk)
        indexes = b""
        for number, entries in self.index.items():
            head = {"op": b"\x04", "ver": struct.pack("<I", 1), "conn": struct.pack("<I", number)}
            data = b"".join(stamp(t) + struct.pack("<I", offset) for t, offset in entries)
            indexes += record({**head, "count": struct.pack("<I", len(entries))}, data)
        chunk_position = len(magic) + 4096
        times = [t for entries in self.index.values() for t, _ in entries]
        info = record(
            {
                "op": b"\x06",
                "ver": struct.pack("<I", 1),
                "chunk_pos": struct.pack("<Q", chunk_position),
                "start_time": stamp(min(times)),
                "end_time": stamp(max(times)),
                "count": struct.pack("<I", len(self.index)),
            },
            b"".join(struct.pack("<II", number, len(entries)) for number, entries in self.index.items()),
        )
        fields = {
            "op": b"\x03",
            "index_pos": struct.pack("<Q", chunk_position + len(chunk) + len(indexes)),
            "conn_count": struct.pack("<I", len(self.connections)),
            "chunk_count": struct.pack("<I", 1),
        }
        padding = 4096 - len(record(fields, b""))
        head = record(fields, b" " * padding)
        tail = b"".join(described for _, described in self.connections.values()) + info
        path.write_bytes(magic + head + chunk + indexes + tail)


def write_bag(path: Path, camera: Camera, images: Sequence[Image]) -> None:
    """One depth camera's images, arrivals in the metadata, as a D400's recording has them."""
    bag = Bag()
    bag.add("/file_version", "std_msgs/UInt32", struct.pack("<I", 3))
    for key, value in {"Name": "Intel RealSense D435", "Serial Number": camera.serial}.items():
        bag.add("/device_0/info", "diagnostic_msgs/KeyValue", string(key) + string(value))
    bag.add(f"{SENSOR}/info", "diagnostic_msgs/KeyValue", string("Name") + string("Stereo Module"))
    stream = f"{SENSOR}/Depth_0"
    bag.add(f"{stream}/info", "realsense_msgs/StreamInfo", struct.pack("<I", 30) + string("mono16") + b"\x00")
    fx, fy, cx, cy = camera.k
    matrices = [fx, 0, cx, 0, fy, cy, 0, 0, 1, *[0.0] * 9, *[0.0] * 12]
    info = struct.pack("<I", 0) + stamp(0) + string("0") + struct.pack("<II", camera.height, camera.width)
    info += string("None") + struct.pack("<I5d", 5, *[0.0] * 5) + struct.pack("<30d", *matrices)
    info += struct.pack("<II", 0, 0) + struct.pack("<IIIIB", 0, 0, 0, 0, 0)
    bag.add(f"{stream}/info/camera_info", "sensor_msgs/CameraInfo", info)
    bag.add(f"{stream}/tf/0", "geometry_msgs/Transform", struct.pack("<7d", 0, 0, 0, 0, 0, 0, 1))
    option = f"{SENSOR}/option/Depth Units"
    bag.add(f"{option}/value", "std_msgs/Float32", struct.pack("<f", camera.depth_unit_mm / 1000))
    bag.add(f"{option}/description", "std_msgs/String", string("metres a step"))
    first = images[0].t_host_ns
    for image in images:
        t = image.t_host_ns - first + 1_000_000
        pixels = image.depth.tobytes()
        data = struct.pack("<I", image.frame_number) + stamp(image.t_device_ns) + string("0")
        data += struct.pack("<II", camera.height, camera.width) + string("mono16") + b"\x00"
        data += struct.pack("<II", 2 * camera.width, len(pixels)) + pixels
        metadata = {"timestamp_domain": "Hardware Clock", "Time Of Arrival": str(image.t_host_ns // 1_000_000)}
        for key, value in metadata.items():
            bag.add(f"{stream}/image/metadata", "diagnostic_msgs/KeyValue", string(key) + string(value), t)
        bag.add(f"{stream}/image/data", "sensor_msgs/Image", data, t)
    bag.write(path)
