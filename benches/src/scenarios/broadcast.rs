//! One chunk to many nodes.

use super::fetching::Fetching;
use crate::conditions::Conditions;
use crate::failure::Failure;
use crate::nodes::memory_bytes;
use crate::payload::Payload;
use crate::peers::copies::{Copies, Keeping};
use crate::peers::mpi::{Algorithm, Mpi};
use crate::scenario::{Contenders, Scenario};

const SIZE: u64 = 256 << 20;

/// A chunk from one node to many at once, beside star copies and MPI.
pub struct Broadcast {
    /// How many nodes receive it.
    pub receivers: usize,
}

impl Scenario for Broadcast {
    fn name(&self) -> String {
        format!("broadcast-{}", self.receivers)
    }

    fn compares(&self) -> &'static str {
        "one chunk from a node to all others at once over loopback TCP; beside one process that sends the same \
         bytes to as many receivers, which keep them, and beside MPI_Bcast over TCP, as Open MPI chooses and pipelined"
    }

    fn goal(&self) -> &'static str {
        "faster than each from 8 receivers on"
    }

    fn bytes(&self, conditions: &Conditions) -> u64 {
        conditions.sized(SIZE) * self.receivers as u64
    }

    fn memory_bytes(&self, conditions: &Conditions) -> u64 {
        let (size, receivers) = (conditions.sized(SIZE), self.receivers as u64);
        // The bytes themselves, the nodes, the receivers of the copies, and the processes of MPI.
        size + (1 + receivers) * memory_bytes(size) + receivers * size + (1 + receivers) * size
    }

    fn prepare(&self, conditions: &Conditions) -> Result<Contenders, Failure> {
        let payload = Payload::new(conditions.sized(SIZE))?;
        let control = conditions.congestion_control.as_deref();
        let ours = Fetching::start(self.receivers, &payload, conditions)?;
        let star = Copies::start("tcp-star", self.receivers, &payload, Keeping::Everything, control)?;
        let mut contenders = Contenders::new(ours).with(star);
        for algorithm in [Algorithm::Chosen, Algorithm::Pipeline] {
            let mpi = Mpi::find(algorithm, self.receivers, payload.length(), control);
            contenders = contenders.with_if_there(algorithm.name(), mpi)?;
        }
        Ok(contenders)
    }
}
