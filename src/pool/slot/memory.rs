//! What a slot's processes use, looked up no oftener than it is worth.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long what was seen is good enough for: each look reads some files of
/// `/proc`, and whoever watches closely watches all slots.
const AGE_MAX: Duration = Duration::from_secs(1);

/// Resident memory of a process tree, as it was seen last.
#[derive(Default)]
pub(super) struct Memory(Mutex<Option<Seen>>);

#[derive(Clone, Copy)]
struct Seen {
    pid: u32,
    at: Instant,
    bytes: Option<i64>,
}

impl Memory {
    /// What is known well enough; `None`: somebody has to look.
    pub fn known(&self, pid: u32) -> Option<Option<i64>> {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.filter(|seen| seen.pid == pid && seen.at.elapsed() < AGE_MAX)?;
        Some(seen.bytes)
    }

    /// In bytes; `None`: the process is gone. May block.
    pub fn look(&self, pid: u32) -> Option<i64> {
        if let Some(bytes) = self.known(pid) {
            return bytes;
        }
        let bytes = of_tree(pid);
        let at = Instant::now();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen { pid, at, bytes });
        bytes
    }
}

/// Resident memory of a process and all below it, in bytes; `None`: it is gone.
fn of_tree(pid: u32) -> Option<i64> {
    const PAGE: i64 = 4096;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let resident: i64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let below: i64 = children
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .filter_map(of_tree)
        .sum();
    Some(resident * PAGE + below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_looked_at_once_a_second_and_another_at_once() {
        let memory = Memory::default();
        let us = std::process::id();
        assert_eq!(memory.known(us), None);
        let seen = memory.look(us);
        assert!(seen.is_some_and(|bytes| bytes > 0));
        assert_eq!(memory.known(us), Some(seen));

        assert_eq!(memory.known(us + 1), None);
        let past = Instant::now().checked_sub(AGE_MAX).unwrap();
        memory.0.lock().unwrap().as_mut().unwrap().at = past;
        assert_eq!(memory.known(us), None);
    }
}
