"""gloo, through `torch.distributed.broadcast`, over TCP."""
import os

os.environ.update(GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
import torch
from torch import distributed

from contender import Processes, clock, main

# Bytes that are broadcast first, to make connections: as long messages are.
WARM_UP_BYTES = 32 << 20


class Rank:
    """One of the processes. The first has the bytes."""

    def __init__(self, rank, task):
        self.rank, self.task = rank, task
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo", init_method=f"file://{task.folder}/meeting", rank=rank, world_size=1 + task.receivers
        )

    def ready(self):
        # Ones rather than zeros: pages are touched, and the bytes of an earlier round are gone.
        self.memory = torch.ones(self.task.length, dtype=torch.uint8)
        distributed.broadcast(self.memory[:WARM_UP_BYTES], 0)
        if self.rank == 0:
            self.memory.numpy()[:] = self.task.payload()
        distributed.barrier()

    def run(self):
        distributed.broadcast(self.memory, 0)
        return clock()

    def verify(self):
        right = self.rank > 0 and self.task.is_payload(self.memory.numpy())
        # Memory is left to others for as long as they run.
        del self.memory
        return int(right)


class Gloo:
    def __init__(self, task):
        # Forked, so that all share what importing torch takes.
        self.ranks = Processes("fork")
        for rank in range(1 + task.receivers):
            self.ranks.add(Rank, rank, task)
        self.ranks.expect()

    def ready(self):
        self.ranks.ask("ready")

    def run(self):
        begin = clock()
        return max(self.ranks.ask("run")) - begin

    def verify(self):
        return sum(self.ranks.ask("verify"))


if __name__ == "__main__":
    main(Gloo)
