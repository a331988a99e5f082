//! UCX: the library, and the transports that it has here.

use ucx::{Context, Library};

use super::Finding;

/// The first version of which no way is known that a peer that goes away can end the process.
const ROBUST: (u32, u32) = (1, 15);

pub(super) fn probe() -> Finding {
    let topic = "UCX";
    let not_used = "not asked for unless --transports names ucx";
    let library = match Library::get() {
        Ok(library) => library,
        // Nobody needs it who does not ask for it.
        Err(error) => return Finding::new(topic, error.to_string(), not_used),
    };
    let version = library.version_text();
    let found = match Context::open(&[]) {
        Ok(context) => format!("UCX {version}: {}", context.transports().join(", ")),
        Err(error) => return Finding::new(topic, format!("UCX {version}: {error}"), not_used),
    };
    let finding = Finding::new(topic, found, "used to nodes that it reaches when --transports names ucx");
    match library.version() < ROBUST {
        true => finding.remedy(
            "install UCX 1.15 or later: an earlier one may end the process when a peer dies while a connection over \
             TCP is being made",
        ),
        false => finding,
    }
}
