"""Ray: an object of one node is got by an actor on each of the others. Each node has a store of its own."""
import logging, os, time

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DEDUP_LOGS="0",
    RAY_DISABLE_IMPORT_WARNING="1",
    # Nobody is killed because others have taken memory.
    RAY_memory_monitor_refresh_ms="0",
    # A node that is stopped while others run is not dead.
    RAY_health_check_failure_threshold="100000",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
)
from contender import Processes, clock, main

# Bytes of a store beyond the object.
SLACK_BYTES = 80 << 20


class Driver:
    """Starts the nodes, all of them in processes of their own, and an actor on each but the first."""

    def __init__(self, task):
        os.environ["RAY_TMPDIR"] = task.folder
        import ray
        from ray.cluster_utils import Cluster

        self.task, self.ray = task, ray
        store = {"object_store_memory": task.length + SLACK_BYTES, "num_cpus": 1}
        self.cluster = Cluster(initialize_head=True, head_node_args={**store, "include_dashboard": False})
        for number in range(task.receivers):
            self.cluster.add_node(wait=False, resources={f"receiver-{number}": 1}, **store)
        self.cluster.wait_for_nodes(timeout=120)
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        actor = ray.remote(num_cpus=0)(Actor)
        places = [{f"receiver-{number}": 1} for number in range(task.receivers)]
        self.actors = [actor.options(resources=place).remote(task) for place in places]
        self.ask("rest")

    def ask(self, method, *arguments):
        return self.ray.get([getattr(actor, method).remote(*arguments) for actor in self.actors])

    def ready(self):
        self.object = self.ray.put(self.task.payload())

    def run(self):
        begin = clock()
        return max(self.ask("run", [self.object])) - begin

    def verify(self):
        right = sum(self.ask("verify"))
        self.ask("rest")
        del self.object
        # Its stores drop the object when they hear of that.
        time.sleep(1)
        return right


class Actor:
    """Receives, on a node."""

    def __init__(self, task):
        self.task = task

    def run(self, objects):
        import ray

        self.array = ray.get(objects[0])
        return clock()

    def verify(self):
        return int(self.task.is_payload(self.array))

    def rest(self):
        self.array = None


class Ray:
    def __init__(self, task):
        # Forked, so that the class of the actors remains part of the main module: Ray sends it along.
        self.driver = Processes("fork")
        self.driver.add(Driver, task)
        self.driver.expect()

    def ready(self):
        self.driver.ask("ready")

    def run(self):
        return self.driver.ask("run")[0]

    def verify(self):
        return self.driver.ask("verify")[0]


if __name__ == "__main__":
    main(Ray)
