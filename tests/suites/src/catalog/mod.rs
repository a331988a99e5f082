//! What every engine of the catalog must do. An engine passes when every case does; [`conformance!`](crate::conformance)
//! makes a test of each.
#![expect(clippy::unwrap_used, reason = "a case that fails panics, as tests do")]

mod bed; // a catalog under test
pub mod changes; // each write once, in order
pub mod entries; // what a key has
pub mod expiry; // gone at the moment
pub mod history; // any history against a plain map
pub mod leases; // chunks stay while they may be needed
pub mod reads; // keys, pages, counts, snapshots
pub mod services; // what owns keys and takes them along
pub mod transactions; // what each isolation allows and forbids
pub mod writes; // all or nothing

pub use bed::{Bed, Hands, delete, expire, next, put, text, unchanged, unchanged_key, value, version};

/// Runs one case.
pub fn run<T>(case: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of one thread can be built").block_on(case)
}

/// Makes a test of every case. It takes the path of an `async fn() -> Bed` that opens an empty catalog, or of one to
/// `Option<Bed>`, which says why there is none. Histories run where time can be moved.
#[macro_export]
macro_rules! conformance {
    ($open:path) => {
        $crate::conformance! { $open;
            entries: versions_count_the_writes_of_a_key revisions_order_all_writes an_entry_says_all_about_it
                a_plain_put_clears_what_is_not_named manifests_say_what_they_hold values_of_any_bytes_fit;
            writes: a_batch_is_all_or_nothing versions_are_compared a_delete_is_of_one_version
                writes_that_change_nothing_say_so bad_writes_change_nothing the_largest_write_fits
                nothing_may_have_changed_since concurrent_counters_lose_nothing trees_are_removed_whole;
            reads: many_keys_are_read_at_one_revision pages_follow_each_other names_come_without_contents
                counts_are_exact snapshots_stand_still bad_reads_are_refused pages_are_bounded;
            expiry: keys_are_gone_at_the_moment expiries_can_be_changed a_sweep_ends_what_has_expired
                conditions_see_expiries many_expire_at_once;
            changes: every_kind_of_write_comes_once streams_begin_where_they_are_asked_to
                keys_are_selected streams_wait_for_news a_dropped_wait_loses_nothing positions_go_on
                the_future_cannot_be_followed;
            services: only_services_own_keys what_a_service_owns_ends_with_it lost_services_end
                services_are_kept_alive services_are_listed;
            leases: chunks_are_referenced_for_a_while leases_keep_chunks;
            transactions: nobody_sees_what_is_not_committed reads_see_own_writes reads_repeat_from_snapshot_on
                updates_are_lost_only_in_read_committed phantoms_are_seen_only_in_read_committed
                write_skew_is_forbidden_by_serializable a_scan_is_a_dependency deletions_are_noticed
                transactions_end nothing_of_a_rollback_stays transactions_are_bounded;
        }

        mod history {
            #[test]
            fn any_history_agrees_with_a_plain_map() {
                $crate::catalog::history::agrees($open);
            }
        }
    };
    ($open:path; $($file:ident: $($case:ident)+;)+) => {
        $(mod $file {
            $(#[test]
            fn $case() {
                $crate::catalog::run(async {
                    if let Some(bed) = $open().await.into() {
                        $crate::catalog::$file::$case(bed).await;
                    }
                });
            })+
        })+
    };
}
