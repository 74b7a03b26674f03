//! What a store keeps of a row, whatever a change of it says.

use crate::task::Task;

/// Lets a changed row keep what is the store's business and what stays as it
/// was first written; while the attempt goes on also what an append has noted.
pub(super) fn keep(row: &mut Task, stored: Task) {
    if row.attempt == stored.attempt && row.state.is_active() {
        row.attempt_cost = stored.attempt_cost;
        row.session_id = stored.session_id;
        row.session_offset = stored.session_offset;
    }
    row.last_sequence = stored.last_sequence;
    row.caller = stored.caller;
    row.tags = stored.tags;
    row.group = stored.group;
    row.parent = stored.parent;
    row.place = stored.place;
    row.request = stored.request;
    row.saves_session = stored.saves_session;
    row.node_label = stored.node_label;
    row.level = stored.level;
    row.conversation = stored.conversation;
    row.trace = stored.trace;
    row.create_time = stored.create_time;
}
