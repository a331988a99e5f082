//! What holds for every way that pieces travel.

/// Makes tests of functions that take a [`Way`](way::Way): one for each way that this machine has.
macro_rules! each_way {
    ($module:ident, $way:ident: $($test:ident)*) => {
        mod $module {
            $(#[test]
            fn $test() {
                let way = crate::tests::conformance::way::Way::$way;
                if way.is_here() {
                    super::$test(way);
                }
            })*
        }
    };
    ($($test:ident)*) => {
        each_way! { over_tcp, Tcp: $($test)* }
        each_way! { through_memory, Memory: $($test)* }
        each_way! { over_rdma, Rdma: $($test)* }
        each_way! { over_ucx, Ucx: $($test)* }
        each_way! { over_the_model, Model: $($test)* }
    };
}

pub mod member; // a member that the test plays
pub mod way; // how pieces travel

mod cancellation; // fetches that nobody waits for any more
mod damage; // pieces that are not what they were
mod death; // peers that go away at every step
mod faults; // what only the model can do at will
mod fallback; // the way falls away, or is not there
mod order; // many pieces, chunks and directions at once
mod revocation; // pieces that come too late
mod sizes; // from one byte to the largest piece
