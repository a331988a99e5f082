"""Commits rows one by one in threads of their own, each with a connection of its own; prints seconds as JSON."""
import json, os, sqlite3, sys, threading, time

folder, threads, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
path = os.path.join(folder, "rows.sqlite")


def connect():
    connection = sqlite3.connect(path, timeout=600, isolation_level=None, check_same_thread=False)
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    assert mode == "wal", mode
    connection.execute("PRAGMA synchronous=FULL")
    return connection


first = connect()
first.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
# A log that has its size already is written in place, and its syncs cost less.
first.execute("CREATE TABLE scrap (value BLOB)")
first.execute("INSERT INTO scrap VALUES (zeroblob(5000000))")
first.execute("PRAGMA wal_checkpoint(RESTART)")
connections = [connect() for _ in range(threads)]
value, failed = bytes([7]) * 100, []


def write(thread, connection):
    try:
        for number in range(each):
            connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (f"bench/{thread}/{number}", value))
    except Exception as error:
        failed.append(repr(error))


running = [threading.Thread(target=write, args=pair) for pair in enumerate(connections)]
wall, processors = time.perf_counter(), time.process_time()
for thread in running:
    thread.start()
for thread in running:
    thread.join()
wall, processors = time.perf_counter() - wall, time.process_time() - processors
rows = first.execute("SELECT count(*) FROM entries").fetchone()[0]
if failed or rows != threads * each:
    sys.exit(f"{rows} rows of {threads * each}: {failed[:3]}")
print(json.dumps({"wall_s": wall, "processors_s": processors}))
