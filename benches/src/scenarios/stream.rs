//! One chunk to one node.

use suites::Way;
use suites::network::Host;

use super::fetching::Fetching;
use crate::conditions::Conditions;
use crate::failure::Failure;
use crate::nodes::memory_bytes;
use crate::payload::Payload;
use crate::peers::copies::{Copies, Keeping};
use crate::scenario::{Contenders, Scenario};

const SIZE: u64 = 1 << 30;

/// A chunk from the memory of one node to that of another, beside plain TCP.
pub struct Stream;

impl Scenario for Stream {
    fn name(&self) -> String {
        "stream".into()
    }

    fn compares(&self) -> &'static str {
        "one chunk from the memory of a node to that of another over loopback TCP, checked piece by piece; \
         beside one TCP stream of the same bytes, discarded by its receiver or kept in memory touched before; sender and \
         receiver have a processor each"
    }

    fn goal(&self) -> &'static str {
        "at least 0.9 of the rate of tcp-discard, at most 1.25 of its processor time"
    }

    fn amount(&self, conditions: &Conditions) -> u64 {
        conditions.sized(SIZE)
    }

    fn memory_bytes(&self, conditions: &Conditions) -> u64 {
        let bytes = self.amount(conditions);
        // The bytes themselves, the nodes, and the receiver that keeps them.
        2 * bytes + 2 * memory_bytes(bytes)
    }

    fn prepare(&self, conditions: &Conditions) -> Result<Contenders, Failure> {
        let payload = Payload::new(self.amount(conditions))?;
        let control = conditions.congestion_control.as_deref();
        let hosts = Host::halves();
        let ours = Fetching::start(&hosts, &payload, Way::Tcp, conditions)?;
        let discarding = Copies::start("tcp-discard", &hosts, &payload, Keeping::Nothing, control)?;
        let keeping = Copies::start("tcp-keep", &hosts, &payload, Keeping::Everything, control)?;
        Ok(Contenders::new(ours).with(discarding).with(keeping))
    }
}
