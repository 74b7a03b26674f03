//! What every store must do: one list of cases, run over any store.
//!
//! ```text
//! claudepool::store_conformance!(memory, async {
//!     (Arc::new(Memory::new()) as Arc<dyn Store>, ())
//! });
//! ```
//! makes a module `memory` with one test per case.

mod catalog;
mod claim;
mod cluster;
mod commit;
mod conversation;
pub mod fixture;
mod list;
mod log;
mod money;
mod request;
mod retain;

use std::pin::Pin;
use std::sync::Arc;

use super::Store;
pub use cluster::Handles;

/// A case: panics with what is wrong.
type Case = fn(Arc<dyn Store>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// The list. A case that is missing here is dead code, and no build.
#[doc(hidden)]
#[macro_export]
macro_rules! for_each_store_case {
    ($then:path { $($given:tt)* }) => {
        $then! { { $($given)* }
            commit: a_batch_is_committed_in_the_order_of_its_changes
            commit: a_batch_whose_last_change_conflicts_leaves_nothing
            commit: a_task_that_exists_is_not_made_again
            commit: a_change_of_an_older_version_conflicts
            commit: a_change_of_an_absent_task_conflicts
            commit: a_batch_may_change_one_task_twice
            commit: what_was_asked_and_given_is_read_back_as_wanted
            commit: fields_that_are_fixed_stay_as_first_written
            commit: every_field_of_a_row_is_read_back
            commit: a_large_batch_is_one_commit
            commit: a_probe_changes_nothing
            request: a_request_makes_its_work_once
            request: a_request_is_its_callers_own
            request: a_request_that_has_expired_is_overwritten
            request: a_batch_that_conflicts_leaves_no_request
            request: a_deleted_task_leaves_a_tombstone
            request: a_task_of_an_overwritten_request_leaves_no_tombstone
            request: a_deleted_member_makes_a_tombstone_of_its_fan_out
            request: only_an_ended_task_at_its_version_is_deleted
            request: a_deleted_task_is_gone_from_everywhere
            request: requests_that_have_expired_are_forgotten_a_few_at_a_time
            retain: what_is_outdated_comes_by_state_and_the_earliest_end_first
            retain: a_member_is_kept_until_its_fan_out_has_ended
            retain: a_chain_goes_with_its_steps
            retain: a_chain_whose_step_has_not_ended_is_not_deleted
            retain: a_sweep_changes_nothing_that_is_seen
            retain: the_bytes_of_a_log_are_told
            log: sequences_are_dense_from_one_across_commits_and_appends
            log: a_log_is_read_back_as_the_same_bytes
            log: entries_are_dated_by_the_batch
            log: a_page_of_a_log_holds_at_least_one_entry
            log: an_append_is_fenced_by_its_attempt
            log: an_append_is_fenced_by_the_state
            log: an_append_changes_no_version
            log: a_commit_keeps_the_cost_that_appends_have_noted
            log: concurrent_appends_to_one_log_leave_no_gap
            log: an_output_is_read_in_pieces
            log: an_output_that_was_not_kept_apart_is_none
            claim: claims_follow_rank_then_ready_time_then_id
            claim: a_task_that_is_not_ready_is_left_and_announced
            claim: a_claim_starts_reserves_and_marks_the_row
            claim: a_claim_gives_what_is_to_be_done
            claim: a_claim_without_slots_takes_nothing
            claim: a_task_that_was_handed_back_is_claimed_again
            claim: concurrent_claims_never_give_one_task_twice
            claim: a_task_that_needs_more_is_left_to_who_knows_it
            claim: a_step_that_needs_more_is_due_for_who_knows_it
            claim: due_tasks_come_oldest_first_and_the_next_is_announced
            claim: a_task_that_has_ended_is_never_due
            conversation: tasks_of_a_conversation_are_claimed_one_at_a_time_in_order
            conversation: a_slot_is_preferred_for_the_conversation_it_keeps
            conversation: a_session_is_noted_while_its_attempt_goes_on
            conversation: an_ended_task_that_saves_leaves_its_session
            conversation: a_session_expires_when_no_task_needs_it
            list: the_newest_task_is_listed_first
            list: pages_meet_without_gap_or_overlap
            list: each_filter_restricts_the_list
            list: filters_restrict_together
            list: steps_are_listed_only_if_asked_for
            list: many_tags_are_looked_for_at_once
            list: a_group_is_read_by_place
            list: totals_count_states_without_steps
            money: a_claim_is_covered_by_the_budget
            money: a_task_above_the_budget_lets_smaller_ones_pass
            money: nothing_is_unaffordable_while_something_is_reserved
            money: what_can_never_be_paid_is_unaffordable
            money: funds_follow_reservation_and_settlement
            money: a_reservation_that_is_not_covered_leaves_nothing
            money: a_correction_is_spent_and_kept
            money: the_budget_is_set_and_lifted
            money: money_spent_stays_spent_when_its_task_is_deleted
            money: the_context_is_changed_at_its_revision_only
            money: the_context_is_read_sorted_and_dated
            catalog: an_entry_is_put_replaced_and_deleted
            catalog: skills_and_workflows_share_no_names
            catalog: pages_of_the_catalog_go_by_name
            catalog: no_more_entries_are_made_than_allowed
            money: a_closed_store_is_unavailable
        }
    };
}

macro_rules! cases {
    ({ $($names:tt)* } $($module:ident: $case:ident)*) => {
        /// Every case by name.
        pub const CASES: &[(&str, Case)] = &[
            $((stringify!($case), |store| Box::pin($module::$case(store)))),*
        ];
    };
}
for_each_store_case!(cases {});

/// Runs one case over a store that holds nothing yet.
pub async fn run(name: &str, store: Arc<dyn Store>) {
    let case = CASES.iter().find(|(known, _)| *known == name);
    let (_, case) = case.expect("a case of the list");
    case(store).await;
}

#[doc(hidden)]
#[macro_export]
macro_rules! store_conformance_tests {
    ({ $name:ident, $make:expr } $($module:ident: $case:ident)*) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (store, _kept) = $make.await;
                    $crate::store::conformance::run(stringify!($case), store).await;
                }
            )*
        }
    };
}

/// Makes a module `$name` with a test per case; `$make` is a future that gives
/// an empty `Arc<dyn Store>` and something to keep for as long as it is used.
#[macro_export]
macro_rules! store_conformance {
    ($name:ident, $make:expr) => {
        $crate::for_each_store_case!($crate::store_conformance_tests { $name, $make });
    };
}

/// A case for stores that many nodes share.
type ClusterCase = fn(Handles) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// The list of those.
#[doc(hidden)]
#[macro_export]
macro_rules! for_each_cluster_case {
    ($then:path { $($given:tt)* }) => {
        $then! { { $($given)* }
            a_name_belongs_to_one_living_node
            a_node_whose_lease_has_passed_can_do_nothing
            a_renewed_lease_holds
            what_a_node_ran_is_orphaned_when_it_is_gone
            a_step_that_needs_more_is_no_orphan_of_an_older_node
            nodes_are_listed_with_what_they_tell
            a_task_that_asks_for_a_label_goes_to_a_node_that_has_it
            an_attempt_that_goes_on_waits_for_the_node_of_its_session
            a_conversation_goes_on_where_its_session_is
            the_control_is_changed_at_its_revision_only
            the_control_tells_of_context_and_budget
            a_question_is_given_once_and_its_answer_too
            others_are_told_of_what_is_committed
            queued_tasks_are_counted_by_caller
        }
    };
}

macro_rules! cluster_cases {
    ({ $($names:tt)* } $($case:ident)*) => {
        /// Every such case by name.
        pub const CLUSTER_CASES: &[(&str, ClusterCase)] = &[
            $((stringify!($case), |nodes| Box::pin(cluster::$case(nodes)))),*
        ];
    };
}
for_each_cluster_case!(cluster_cases {});

/// Runs one such case over three handles of a store that holds nothing yet.
pub async fn run_cluster(name: &str, nodes: Handles) {
    let case = CLUSTER_CASES.iter().find(|(known, _)| *known == name);
    let (_, case) = case.expect("a case of the list");
    case(nodes).await;
}

#[doc(hidden)]
#[macro_export]
macro_rules! cluster_conformance_tests {
    ({ $name:ident, $make:expr } $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (nodes, _kept) = $make.await;
                    $crate::store::conformance::run_cluster(stringify!($case), nodes).await;
                }
            )*
        }
    };
}

/// Makes a module `$name` with a test per case; `$make` is a future that gives
/// three handles of one empty store and something to keep as long as they are
/// used.
#[macro_export]
macro_rules! cluster_conformance {
    ($name:ident, $make:expr) => {
        $crate::for_each_cluster_case!($crate::cluster_conformance_tests { $name, $make });
    };
}
