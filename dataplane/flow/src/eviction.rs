//! What leaves memory when room is wanted, in which order, and what is not kept there to begin with.

/// How a replica stands when room is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// When it was last used: larger is later.
    pub last_used: u64,
    /// Whether it must not be evicted.
    pub pinned: bool,
    /// Whether some of it is in memory.
    pub in_memory: bool,
    /// Whether all of it is in memory.
    pub whole_in_memory: bool,
    /// Whether it has a file, or memory on a GPU, in which all of it is or will be.
    pub has_file: bool,
    /// Whether a client has it open, or a transfer into this node is under way.
    pub in_use: bool,
}

/// A step that frees memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<R> {
    /// Drop those pieces from memory that are on NVMe or a GPU too and that nobody uses: nothing is lost.
    DropCopies(R),
    /// Drop the whole replica, which is in memory alone.
    Drop(R),
}

/// The steps that may be taken, the first one first, until there is room: copies of what is elsewhere too go before what would
/// be lost, and of each the longest unused first. What is pinned stays whole in memory if it is so.
pub fn steps<R: Clone>(replicas: impl IntoIterator<Item = (R, Standing)>) -> Vec<Step<R>> {
    let mut replicas: Vec<_> = replicas.into_iter().filter(|(_, standing)| standing.in_memory).collect();
    replicas.sort_by_key(|(_, standing)| standing.last_used);
    let with_copies = replicas.iter().filter(|(_, standing)| may_drop_copies(standing));
    let alone = replicas.iter().filter(|(_, standing)| may_drop(standing));
    let copies = with_copies.map(|(replica, _)| Step::DropCopies(replica.clone()));
    copies.chain(alone.map(|(replica, _)| Step::Drop(replica.clone()))).collect()
}

/// One part in so many of the memory stays free for others when a large chunk takes the rest.
const LEFT_TO_OTHERS: u64 = 16;

/// Whether a chunk of `size` bytes, kept in memory of `all` bytes of which `free` are free, would leave too little to
/// others. Such a chunk goes through a file.
pub fn would_crowd(size: u64, all: u64, free: u64) -> bool {
    size > all / 2 && size + all / LEFT_TO_OTHERS > free
}

fn may_drop_copies(standing: &Standing) -> bool {
    standing.has_file && !(standing.pinned && standing.whole_in_memory)
}

fn may_drop(standing: &Standing) -> bool {
    !standing.has_file && !standing.pinned && !standing.in_use
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLATILE: Standing = Standing {
        last_used: 0,
        pinned: false,
        in_memory: true,
        whole_in_memory: true,
        has_file: false,
        in_use: false,
    };
    const DURABLE: Standing = Standing { has_file: true, ..VOLATILE };

    #[test]
    fn a_large_chunk_crowds_only_where_there_is_no_room_for_it() {
        assert!(!would_crowd(50, 100, 0), "half of the memory is made room for");
        assert!(!would_crowd(60, 100, 66));
        assert!(would_crowd(60, 100, 65));
        assert!(would_crowd(1000, 100, 100));
    }

    #[test]
    fn copies_go_first_and_the_longest_unused_of_each() {
        let used = |standing, last_used| Standing { last_used, ..standing };
        let replicas = [
            ('a', used(VOLATILE, 1)),
            ('b', used(DURABLE, 9)),
            ('c', used(VOLATILE, 0)),
            ('d', used(DURABLE, 2)),
        ];
        let expected = [Step::DropCopies('d'), Step::DropCopies('b'), Step::Drop('c'), Step::Drop('a')];
        assert_eq!(steps(replicas), expected);
    }

    #[test]
    fn what_is_pinned_or_in_use_is_not_lost() {
        let kept = [
            ('a', Standing { pinned: true, ..VOLATILE }),
            ('b', Standing { in_use: true, ..VOLATILE }),
            ('c', Standing { pinned: true, ..DURABLE }),
            ('d', Standing { in_memory: false, ..VOLATILE }),
        ];
        assert_eq!(steps(kept), []);
        let copies = [
            ('a', Standing { in_use: true, ..DURABLE }),
            ('b', Standing { pinned: true, whole_in_memory: false, ..DURABLE }),
        ];
        assert_eq!(steps(copies), [Step::DropCopies('a'), Step::DropCopies('b')]);
    }
}
