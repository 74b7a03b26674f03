//! What a call asks, in 32 bytes: a repeat of its request must ask the same. Pure.

use prost::Message;
use sha2::{Digest, Sha256};

use super::submit::Wish;
use crate::id::TaskId;
use crate::pb;

/// What is wished for: to do a task again, or these tasks.
pub fn of_wish(specs: &[pb::TaskSpec], wish: &Wish) -> [u8; 32] {
    match wish.again {
        Some(task) => of_retry(task),
        None => of_tasks(specs, wish.group),
    }
}

/// A call of this kind, without its request.
pub fn of_call(kind: &[u8], call: &impl Message) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(kind);
    hash.update(call.encode_to_vec());
    hash.finalize().into()
}

/// A Retry: told apart from a call that makes the same
/// task anew, and from a Retry of another.
pub fn of_retry(task: TaskId) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"retry");
    hash.update(task.as_bytes());
    hash.finalize().into()
}

/// Tasks to be made: over the specs as received, before merging.
/// Maps are encoded in order, so the same meaning has the same bytes.
fn of_tasks(specs: &[pb::TaskSpec], group: bool) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([u8::from(group)]);
    for spec in specs {
        let bytes = spec.encode_to_vec();
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(&bytes);
    }
    hash.finalize().into()
}
