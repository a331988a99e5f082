"""What the contenders in Python share: orders, processes, time and rest.

A contender is started as `SCRIPT RECEIVERS BYTES PAYLOAD FOLDER`. It stays up between rounds, and says `ok` when it is
ready for orders. They come line by line on standard input, and each is answered with a line: `ok`, a number behind it
where one is asked for, or `failed` and why.

    ready     prepare a round with the payload as the file has it: memory is touched, connections are made
    run       bring it to all receivers; the number is the seconds from the first request until the last has everything
    verify    compare what each receiver has with the payload; the number is how many have it; then rest

While a contender rests, all processes that it started are stopped by SIGSTOP, so that they take no processor from
others. When standard input ends, they are killed, whatever they do.
"""
import ctypes, mmap, multiprocessing, os, queue, shutil, signal, sys, threading, time, traceback

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# What is compared at once.
PART_BYTES = 1 << 20


class Task:
    """What is broadcast, and to how many."""

    def __init__(self, receivers, length, path, folder):
        self.receivers, self.length, self.path, self.folder = int(receivers), int(length), path, folder

    def payload(self):
        """The bytes of the file, read-only and without a copy of them."""
        import numpy

        with open(self.path, "rb") as file:
            return numpy.frombuffer(mmap.mmap(file.fileno(), self.length, prot=mmap.PROT_READ), numpy.uint8)

    def is_payload(self, array):
        """Whether an array of bytes holds what the file does. It takes no memory to speak of: all receivers are asked at once."""
        import numpy

        payload = self.payload()
        parts = (slice(start, start + PART_BYTES) for start in range(0, self.length, PART_BYTES))
        return array.nbytes == self.length and all(numpy.array_equal(array[part], payload[part]) for part in parts)


class Processes:
    """Processes that each keep an object and call its methods when they are asked to."""

    def __init__(self, start):
        self.context, self.connections = multiprocessing.get_context(start), []

    def add(self, kind, *arguments):
        """Starts a process, which makes its object of a class. `expect` tells when it has."""
        ours, theirs = self.context.Pipe()
        self.context.Process(target=serve, args=(theirs, kind, arguments), daemon=True).start()
        theirs.close()
        self.connections.append(ours)

    def tell(self, method, *arguments):
        """Has all of them call a method at once."""
        for connection in self.connections:
            connection.send((method, arguments))

    def expect(self):
        """What all of them have to say to the latest request."""
        answers = [connection.recv() for connection in self.connections]
        failures = [what for well, what in answers if not well]
        if failures:
            raise RuntimeError(f"{len(failures)} of {len(answers)} failed, the first: {failures[0]}")
        return [what for _, what in answers]

    def ask(self, method, *arguments):
        """Has all of them call a method, and gives what it returns."""
        self.tell(method, *arguments)
        return self.expect()


def serve(connection, kind, arguments):
    """What a process of `Processes` does."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    served, method, values = None, None, arguments
    while True:
        try:
            if served is None:
                served, result = kind(*values), None
            else:
                result = getattr(served, method)(*values)
            answer = (True, result)
        except Exception as error:
            traceback.print_exc()
            answer = (False, told(error))
        connection.send(answer)
        try:
            method, values = connection.recv()
        except EOFError:
            os._exit(0)


def clock():
    """Seconds of a clock that all processes share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def prctl(option, value):
    """Asks the kernel something about this process."""
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def told(error):
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def descendants():
    """Numbers of all processes that come from this one, parents before their children."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except OSError:
            continue
        children.setdefault(int(parent), []).append(int(name))
    found, at = [os.getpid()], 0
    while at < len(found):
        found += children.get(found[at], [])
        at += 1
    return found[1:]


def signal_all(number):
    """Signals all processes that come from this one, those included that they start meanwhile."""
    done = set()
    while rest := [process for process in descendants() if process not in done]:
        for process in rest:
            done.add(process)
            try:
                os.kill(process, number)
            except ProcessLookupError:
                pass


def end(task):
    """Ends everything."""
    signal_all(signal.SIGKILL)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
    shutil.rmtree(task.folder, ignore_errors=True)
    os._exit(0)


def listen(task, orders):
    """Passes orders on. It hears their end at once, whatever this process is doing."""
    for line in sys.stdin:
        orders.put(line.strip())
    end(task)


def main(kind):
    """Does what is ordered with an object of a class, which is made of the task."""
    # What libraries print goes where errors do.
    answers = os.dup(1)
    os.dup2(2, 1)
    answer = lambda words: os.write(answers, f"{words}\n".encode())
    # What loses its parent becomes a child of this process, so that nothing gets out of sight.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Where memory runs out, nobody else shall suffer.
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    task, orders = Task(*sys.argv[1:]), queue.SimpleQueue()
    try:
        contender = kind(task)
    except Exception as error:
        traceback.print_exc()
        answer(f"failed {told(error)}")
        end(task)
    # Only here: a process that forks shall have one thread.
    threading.Thread(target=listen, args=(task, orders), daemon=True).start()
    answer("ok")
    while True:
        order = orders.get()
        try:
            if order == "ready":
                signal_all(signal.SIGCONT)
                contender.ready()
                answer("ok")
            elif order == "run":
                answer(f"ok {contender.run():.9f}")
            elif order == "verify":
                right = contender.verify()
                signal_all(signal.SIGSTOP)
                answer(f"ok {right}")
            else:
                answer(f"failed '{order}' is no order")
        except Exception as error:
            traceback.print_exc()
            answer(f"failed {told(error)}")
