//! Which ports belong to whom. They are kept in the cluster's directory, since members of etcd must be found where they were.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::processes::ProcessError;

/// The file in the cluster's directory.
const FILE: &str = "cluster.json";
/// From the first port of the nodes to the first one for clients of etcd, and from there to the first one of its members.
const STRIDE: u16 = 100;

/// The ports of a cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Of the nodes.
    pub nodes: Vec<u16>,
    /// Of etcd's members, for clients.
    pub clients: Vec<u16>,
    /// Of etcd's members, among themselves.
    pub peers: Vec<u16>,
}

impl Layout {
    /// The layout of the cluster in a directory; a fresh one, which is kept there, where there is none.
    pub fn of(directory: &Path, count: Option<u16>, port: Option<u16>) -> Result<Self, Failure> {
        let path = directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let layout = Self::fresh(count.unwrap_or(super::up::NODES), port)?;
                let text = serde_json::to_vec(&layout).map_err(std::io::Error::from);
                let written = text.and_then(|text| fs::write(&path, text));
                written.map_err(ProcessError::machine(format!("write {}", path.display())))?;
                return Ok(layout);
            }
            Err(source) => return Err(Failure::ReadFile { path, source }),
        };
        let known = serde_json::from_slice::<Self>(&text).ok().filter(Self::is_whole);
        let known = known
            .ok_or_else(|| Failure::Usage(format!("{} is not what this command wrote", path.display())))?;
        known.check(directory, count, port)?;
        Ok(known)
    }

    /// The catalog of the nodes, as `--catalog` takes it.
    pub fn catalog(&self) -> String {
        let hosts: Vec<String> = self.clients.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("etcd://{}", hosts.join(","))
    }

    fn fresh(count: u16, port: Option<u16>) -> Result<Self, Failure> {
        let Some(first) = port else { return Self::free(usize::from(count)) };
        let from =
            |first: Option<u16>| first.and_then(|first| Some((first..first.checked_add(count)?).collect()));
        let clients = first.checked_add(STRIDE);
        let peers = clients.and_then(|port| port.checked_add(STRIDE));
        match (from(Some(first)), from(clients), from(peers)) {
            (Some(nodes), Some(clients), Some(peers)) => Ok(Self { nodes, clients, peers }),
            _ => Err(Failure::Usage(format!(
                "--port {first} leaves no room for {} ports above it",
                2 * STRIDE + count
            ))),
        }
    }

    /// Ports that nobody has. All are held until the last one is known, so that each is another one.
    fn free(count: usize) -> Result<Self, Failure> {
        let mut held = Vec::new();
        let mut take = || -> std::io::Result<Vec<u16>> {
            (0..count)
                .map(|_| {
                    let listener = TcpListener::bind("127.0.0.1:0")?;
                    let port = listener.local_addr()?.port();
                    held.push(listener);
                    Ok(port)
                })
                .collect()
        };
        let failed = || ProcessError::machine("find free ports");
        Ok(Self {
            nodes: take().map_err(failed())?,
            clients: take().map_err(failed())?,
            peers: take().map_err(failed())?,
        })
    }

    fn is_whole(&self) -> bool {
        let count = self.nodes.len();
        (1..=usize::from(super::up::NODES_MAX)).contains(&count)
            && self.clients.len() == count
            && self.peers.len() == count
    }

    /// Whether it is what was asked for.
    fn check(&self, directory: &Path, count: Option<u16>, port: Option<u16>) -> Result<(), Failure> {
        let differs = |what: String| {
            let text = format!("the cluster in {} {what}; leave the flag out", directory.display());
            Err(Failure::Usage(text))
        };
        if count.is_some_and(|count| usize::from(count) != self.nodes.len()) {
            return differs(format!("has {} nodes", self.nodes.len()));
        }
        match self.nodes.first() {
            Some(&first) if port.is_some_and(|port| port != first) => {
                differs(format!("begins at port {first}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_keeps_its_ports() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::of(directory.path(), None, None).unwrap();
        let mut all = [&layout.nodes[..], &layout.clients, &layout.peers].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!((layout.nodes.len(), all.len()), (3, 9));
        assert_eq!(Layout::of(directory.path(), Some(3), None).unwrap(), layout);
        assert!(matches!(Layout::of(directory.path(), Some(4), None), Err(Failure::Usage(_))));
        assert!(matches!(Layout::of(directory.path(), None, Some(1)), Err(Failure::Usage(_))));
        fs::write(directory.path().join(FILE), "{}").unwrap();
        assert!(matches!(Layout::of(directory.path(), None, None), Err(Failure::Usage(_))));
    }

    #[test]
    fn ports_follow_the_first() {
        let layout = Layout::fresh(2, Some(9015)).unwrap();
        let ports = (layout.nodes.clone(), layout.clients.clone(), layout.peers.clone());
        assert_eq!(ports, (vec![9015, 9016], vec![9115, 9116], vec![9215, 9216]));
        assert_eq!(layout.catalog(), "etcd://127.0.0.1:9115,127.0.0.1:9116");
        assert!(Layout::fresh(3, Some(65_400)).is_err());
    }
}
