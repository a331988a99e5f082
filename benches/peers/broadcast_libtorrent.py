"""BitTorrent by libtorrent over TCP, without a tracker: everybody knows the seed and some others."""
import os, shutil

import libtorrent, numpy

from contender import Processes, clock, main

PIECE_BYTES = 1 << 20
# To how many of those that came before each receiver connects.
NEIGHBOURS = 4
# Less than whoever ordered it waits.
WAIT_S = 100
Alerts, Flags = libtorrent.alert.category_t, libtorrent.torrent_flags
SETTINGS = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "in_enc_policy": libtorrent.enc_policy.disabled,
    "out_enc_policy": libtorrent.enc_policy.disabled,
    "allow_multiple_connections_per_ip": True,
    # Receivers that do not ask for anything yet stay connected.
    "close_redundant_connections": False,
    "unchoke_slots_limit": -1,
    "max_out_request_queue": 1000,
    "max_allowed_in_request_queue": 4000,
    "send_buffer_watermark": 4 << 20,
    "send_buffer_low_watermark": 1 << 20,
    "send_buffer_watermark_factor": 150,
    "alert_mask": Alerts.status_notification | Alerts.error_notification,
}


class Member:
    """One of the swarm. Its folder is in memory."""

    def __init__(self, task, folder, seeds):
        self.task, self.folder, self.seeds = task, folder, seeds
        self.name = os.path.basename(task.path)
        self.session = libtorrent.session(SETTINGS)

    def port(self):
        return self.session.listen_port()

    def ready(self, torrent):
        """Joins the swarm, and asks for nothing."""
        self.handle = None
        added = libtorrent.add_torrent_params()
        added.ti = libtorrent.torrent_info(torrent)
        added.save_path = self.folder
        added.flags &= ~(Flags.auto_managed | Flags.paused)
        if self.seeds:
            added.flags |= Flags.seed_mode
        else:
            # Pages that are there already; libtorrent finds no right piece in them.
            os.makedirs(self.folder, exist_ok=True)
            numpy.ones(self.task.length, numpy.uint8).tofile(os.path.join(self.folder, self.name))
            added.flags |= Flags.upload_mode
        self.handle = self.session.add_torrent(added)
        states = libtorrent.torrent_status.states
        self.wait(lambda: self.handle.status().state in (states.downloading, states.seeding))

    def meet(self, ports):
        """Connects to others."""
        for port in ports:
            self.handle.connect_peer(("127.0.0.1", port))
        self.wait(lambda: sum(not self.connecting(peer) for peer in self.handle.get_peer_info()) >= len(ports))

    def connecting(self, peer):
        return bool(peer.flags & (peer.connecting | peer.handshake))

    def run(self):
        self.session.pop_alerts()
        self.handle.unset_flags(Flags.upload_mode)
        deadline = clock() + WAIT_S
        while clock() < deadline:
            self.session.wait_for_alert(1000)
            for alert in self.session.pop_alerts():
                if isinstance(alert, libtorrent.torrent_finished_alert):
                    return clock()
                if isinstance(alert, libtorrent.torrent_error_alert):
                    raise RuntimeError(alert.message())
        raise RuntimeError(f"the torrent did not finish within {WAIT_S} s")

    def verify(self):
        right = self.seeds
        if not self.seeds:
            right = self.task.is_payload(numpy.memmap(os.path.join(self.folder, self.name), numpy.uint8, "r"))
        self.session.remove_torrent(self.handle)
        if not self.seeds:
            shutil.rmtree(self.folder)
        return int(right)

    def wait(self, there):
        """Waits for something that libtorrent has no word for."""
        deadline = clock() + WAIT_S
        while not there():
            if clock() > deadline:
                raise RuntimeError(f"a member of the swarm was not ready within {WAIT_S} s")
            self.session.wait_for_alert(20)
            self.session.pop_alerts()


class Swarm:
    def __init__(self, task):
        self.task, self.seed, self.others = task, Processes("fork"), Processes("fork")
        self.seed.add(Member, task, os.path.dirname(task.path), True)
        for number in range(task.receivers):
            self.others.add(Member, task, os.path.join(task.folder, str(number)), False)
        self.seed.expect()
        self.others.expect()
        self.ports = self.seed.ask("port") + self.others.ask("port")

    def ready(self):
        files = libtorrent.list_files(self.task.path)
        torrent = libtorrent.create_torrent(files, PIECE_BYTES, libtorrent.create_torrent.v1_only)
        libtorrent.set_piece_hashes(torrent, os.path.dirname(self.task.path))
        path = os.path.join(self.task.folder, "torrent")
        with open(path, "wb") as file:
            file.write(libtorrent.bencode(torrent.generate()))
        self.seed.ask("ready", path)
        self.others.ask("ready", path)
        for number, connection in enumerate(self.others.connections):
            known = self.ports[max(1, 1 + number - NEIGHBOURS) : 1 + number]
            connection.send(("meet", ([self.ports[0], *known],)))
        self.others.expect()

    def run(self):
        begin = clock()
        return max(self.others.ask("run")) - begin

    def verify(self):
        self.seed.ask("verify")
        return sum(self.others.ask("verify"))


if __name__ == "__main__":
    main(Swarm)
