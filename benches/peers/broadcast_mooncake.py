"""Mooncake Store over TCP: one client has the object in its segment, and the others get it into memory of their own."""
import ctypes, mmap, os, socket, subprocess, time

os.environ.update(MC_LOG_LEVEL="ERROR", GLOG_minloglevel="2")
import mooncake, numpy

from contender import Processes, clock, main

# Bytes of a client's own buffer, which the transfer engine asks for.
LOCAL_BYTES = 16 << 20
SLACK_BYTES = 64 << 20
# Longer than any rest: a client that is stopped sends no sign of life.
LIVES_S = 86_400
START_LIMIT_S = 60


class Client:
    """A client of the store, with memory that the store may write to."""

    def __init__(self, task, master, holds):
        # Its threads would not survive a fork, so that only those who use it load it.
        from mooncake.store import MooncakeDistributedStore

        self.task, self.store = task, MooncakeDistributedStore()
        # Some more than the object, for the allocator of segments.
        segment = task.length + SLACK_BYTES if holds else 0
        result = self.store.setup("127.0.0.1", "P2PHANDSHAKE", segment, LOCAL_BYTES, "tcp", "", master)
        if result != 0:
            raise RuntimeError(f"setup of a client failed: {result}")
        self.mapping = mmap.mmap(-1, task.length)
        self.memory = numpy.frombuffer(self.mapping, numpy.uint8)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
        if (result := self.store.register_buffer(self.address, task.length)) != 0:
            raise RuntimeError(f"registering memory failed: {result}")

    def put(self, key):
        """Puts the payload."""
        self.memory[:] = self.task.payload()
        if (result := self.store.put_from(key, self.address, self.task.length)) != 0:
            raise RuntimeError(f"a put failed: {result}")
        self.mapping.madvise(mmap.MADV_DONTNEED)

    def remove(self, key):
        self.store.remove(key, True)

    def ready(self, key):
        """Touches the memory, and connects."""
        self.memory[:] = 1
        self.run(key)
        self.memory[:] = 1

    def run(self, key):
        length = self.store.get_into(key, self.address, len(self.memory))
        end = clock()
        if length <= 0:
            raise RuntimeError(f"a get failed: {length}")
        return end

    def verify(self):
        right = self.task.is_payload(self.memory)
        # Memory is left to others for as long as they run.
        self.mapping.madvise(mmap.MADV_DONTNEED)
        return int(right)


class Mooncake:
    def __init__(self, task):
        port, metrics = free_ports(2)
        self.round = 0
        program = os.path.join(os.path.dirname(mooncake.__file__), "mooncake_master")
        flags = {
            "rpc_address": "127.0.0.1",
            "rpc_port": port,
            "metrics_port": metrics,
            "client_ttl": LIVES_S,
            "default_kv_lease_ttl": LIVES_S * 1000,
        }
        flags = [f"--{name}={value}" for name, value in flags.items()]
        subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(port)
        master = f"127.0.0.1:{port}"
        self.first, self.others = Processes("spawn"), Processes("spawn")
        self.first.add(Client, task, master, True)
        self.first.expect()
        for _ in range(task.receivers):
            self.others.add(Client, task, master, False)
        self.others.expect()

    def ready(self):
        self.round += 1
        self.key = f"round-{self.round}"
        self.first.ask("put", self.key)
        self.others.ask("ready", self.key)

    def run(self):
        begin = clock()
        return max(self.others.ask("run", self.key)) - begin

    def verify(self):
        right = sum(self.others.ask("verify"))
        self.first.ask("remove", self.key)
        return right


def free_ports(count):
    """Ports that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(port):
    """Waits until somebody listens at a port."""
    deadline = clock() + START_LIMIT_S
    while clock() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"mooncake_master did not start within {START_LIMIT_S} s")


if __name__ == "__main__":
    main(Mooncake)
