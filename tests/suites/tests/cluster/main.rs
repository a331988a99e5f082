//! Clusters of real nodes: what they do together, and what they do when some of them fail.
#![allow(clippy::unwrap_used)]

/// Tests that hold for each way that pieces take: over TCP, RDMA and UCX, as between hosts, and through memory
/// that nodes share.
macro_rules! each_way {
    ($($name:ident)*) => {
        mod over_tcp {
            $(#[test]
            fn $name() {
                super::$name(suites::Way::Tcp);
            })*
        }

        mod over_rdma {
            $(#[test]
            fn $name() {
                if suites::Way::Rdma.is_there() {
                    super::$name(suites::Way::Rdma);
                }
            })*
        }

        mod over_ucx {
            $(#[test]
            fn $name() {
                if suites::Way::Ucx.is_there() {
                    super::$name(suites::Way::Ucx);
                }
            })*
        }

        mod through_memory {
            $(#[test]
            fn $name() {
                super::$name(suites::Way::Found);
            })*
        }
    };
}

mod broadcast; // one key on its way to several nodes

mod everywhere; // every node answers for the whole cluster
mod flows; // several chunks that share a link
mod loss; // nodes that die while they send or receive
mod versions; // keys that change while they are read

mod catalog; // small values from a member, and while the head is away
mod damage; // bytes that are not what they were
mod placement; // chunks that operators move
mod restart; // the head and the trackers go away and come back

mod door; // who is let in, and what strangers get
mod joining; // nodes that cannot become members

mod bench; // benchmarks of a running cluster
mod demo; // the demonstration
