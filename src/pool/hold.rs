//! A provider's limit holds the whole pool: no attempt starts until it lifts,
//! then one goes ahead to see. Pure but for its lock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::pb;

/// Longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// The hold, if there is one.
pub(super) struct Hold {
    /// First wait where the provider does not say when the limit lifts; doubled
    /// each time it has not.
    first_wait: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// Changed here, and the other nodes do not know.
    news: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    /// In microseconds of Unix time.
    until: i64,
    estimated: bool,
    message: String,
    /// Waits that were guessed, one after the other.
    guesses: u32,
    /// Who went ahead to see.
    probe: Option<String>,
}

impl Held {
    fn until(&self) -> Timestamp {
        Timestamp(self.until)
    }

    fn is_probed_by(&self, task: TaskId) -> bool {
        self.probe.as_deref() == Some(&task.to_string())
    }
}

/// How many attempts may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// As many as there are slots.
    Open,
    /// One, to see.
    Probe,
    /// None before this time; `None`: none until who went ahead has ended.
    Shut(Option<Timestamp>),
}

impl Hold {
    pub fn new(first_wait: Duration) -> Self {
        Self {
            first_wait,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many attempts may start now.
    pub fn gate(&self, now: Timestamp) -> Gate {
        match &self.lock().held {
            None => Gate::Open,
            Some(held) if held.until() > now => Gate::Shut(Some(held.until())),
            Some(held) if held.probe.is_some() => Gate::Shut(None),
            Some(_) => Gate::Probe,
        }
    }

    /// Notes who goes ahead.
    pub fn probes(&self, task: TaskId) {
        let mut state = self.lock();
        if let Some(held) = state.held.as_mut() {
            held.probe = Some(task.to_string());
            state.news = true;
        }
    }

    /// The provider limits. `lifts`: when it says that it will be over.
    pub fn limited(&self, task: TaskId, lifts: Option<Timestamp>, message: &str, now: Timestamp) {
        let mut state = self.lock();
        let guesses = match (&state.held, lifts) {
            (_, Some(_)) => 0,
            (None, None) => 1,
            // The one that went ahead met the limit again.
            (Some(held), None) if held.is_probed_by(task) => held.guesses + 1,
            // Others under way meet the same limit.
            (Some(held), None) if held.until() > now => return,
            (Some(held), None) => held.guesses.max(1),
        };
        let doubled = self
            .first_wait
            .saturating_mul(1 << guesses.saturating_sub(1).min(16));
        state.news = true;
        state.held = Some(Held {
            until: lifts
                .unwrap_or_else(|| now.after(doubled.min(LONGEST_WAIT)))
                .0,
            estimated: lifts.is_none(),
            message: message.to_owned(),
            guesses,
            probe: None,
        });
    }

    /// An attempt got an answer: there is no limit. `true`: there was a hold.
    pub fn lifted(&self) -> bool {
        let mut state = self.lock();
        let was_held = state.held.take().is_some();
        state.news |= was_held;
        was_held
    }

    /// An attempt ended without telling anything of the limit: another may go
    /// ahead. `true`: it was the one that had.
    pub fn ended(&self, task: TaskId) -> bool {
        let went = |held: &Held| held.is_probed_by(task);
        self.lock().held.as_ref().is_some_and(went) && self.forget_probe()
    }

    /// Lets another go ahead. `true`: one had.
    pub fn forget_probe(&self) -> bool {
        let mut state = self.lock();
        let probe = state.held.as_mut().and_then(|held| held.probe.take());
        state.news |= probe.is_some();
        probe.is_some()
    }

    /// As other nodes are told; empty: no hold.
    pub fn to_bytes(&self) -> Bytes {
        encode(self.lock().held.as_ref())
    }

    /// As other nodes are told when somebody goes ahead; `None`: nobody may.
    pub fn probing(&self, now: Timestamp) -> Option<Bytes> {
        if self.gate(now) != Gate::Probe {
            return None;
        }
        let probe = Some(TaskId::MIN.to_string());
        let held = self.lock().held.clone()?;
        Some(encode(Some(&Held { probe, ..held })))
    }

    /// The other nodes know it so.
    pub fn shared(&self, bytes: &Bytes) {
        let mut state = self.lock();
        state.news &= encode(state.held.as_ref()) != *bytes;
    }

    /// Takes over what another node has met, unless this one knows better.
    /// Whether that changed anything.
    pub fn follow(&self, bytes: &Bytes) -> bool {
        let mut state = self.lock();
        if state.news || encode(state.held.as_ref()) == *bytes {
            return false;
        }
        // One that is not understood comes from a later version: its own nodes
        // hold.
        state.held = serde_json::from_slice(bytes).ok();
        true
    }

    /// On the wire.
    pub fn describe(&self) -> Option<pb::Hold> {
        self.lock().held.as_ref().map(|held| pb::Hold {
            until: Some(held.until().to_proto()),
            estimated: held.estimated,
            message: held.message.clone(),
            reason: pb::FailureReason::RateLimited as i32,
        })
    }
}

fn encode(held: Option<&Held>) -> Bytes {
    // A map of plain values can be written.
    let bytes = held.and_then(|held| serde_json::to_vec(held).ok());
    bytes.unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold() -> Hold {
        Hold::new(Duration::from_secs(60))
    }

    fn seconds(s: i64) -> Timestamp {
        Timestamp(s * 1_000_000)
    }

    #[test]
    fn a_known_reset_time_is_waited_for_exactly_and_then_one_goes_ahead() {
        let (hold, task) = (hold(), TaskId::new());
        hold.limited(task, Some(seconds(100)), "limit", seconds(0));
        assert_eq!(hold.gate(seconds(99)), Gate::Shut(Some(seconds(100))));
        assert_eq!(hold.gate(seconds(100)), Gate::Probe);
        hold.probes(task);
        assert_eq!(hold.gate(seconds(101)), Gate::Shut(None));
        assert!(hold.lifted());
        assert_eq!(hold.gate(seconds(101)), Gate::Open);
    }

    #[test]
    fn a_guessed_wait_doubles_each_time_the_probe_meets_the_limit_up_to_a_quarter_of_an_hour() {
        let (hold, task) = (hold(), TaskId::new());
        let mut now = seconds(0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            hold.limited(task, None, "limit", now);
            let Gate::Shut(Some(until)) = hold.gate(now) else {
                panic!("held");
            };
            waits.push(until.since(now).as_secs());
            now = until;
            hold.probes(task);
        }
        assert_eq!(waits, [60, 120, 240, 480, 900, 900]);
    }

    #[test]
    fn others_that_meet_the_same_limit_do_not_lengthen_the_wait() {
        let hold = hold();
        hold.limited(TaskId::new(), None, "limit", seconds(0));
        hold.limited(TaskId::new(), None, "limit", seconds(10));
        assert_eq!(hold.gate(seconds(10)), Gate::Shut(Some(seconds(60))));
    }

    #[test]
    fn a_probe_that_tells_nothing_lets_another_go_ahead() {
        let (hold, task) = (hold(), TaskId::new());
        hold.limited(task, None, "limit", seconds(0));
        hold.probes(task);
        assert!(hold.ended(task));
        assert_eq!(hold.gate(seconds(60)), Gate::Probe);
    }

    #[test]
    fn another_node_follows_until_it_meets_something_itself() {
        let (met, follows) = (hold(), hold());
        let task = TaskId::new();
        met.limited(task, None, "limit", seconds(0));

        assert!(follows.follow(&met.to_bytes()));
        assert!(!follows.follow(&met.to_bytes()), "it knows");
        assert_eq!(follows.gate(seconds(59)), Gate::Shut(Some(seconds(60))));
        let probing = follows.probing(seconds(60)).expect("one may");
        assert!(met.probing(seconds(59)).is_none());
        met.shared(&met.to_bytes());
        assert!(met.follow(&probing));
        assert_eq!(met.gate(seconds(60)), Gate::Shut(None), "one has gone");

        assert!(met.lifted());
        assert!(!met.follow(&probing), "it knows better");
        met.shared(&Bytes::new());
        assert!(met.follow(&probing), "that was said after it");
        assert!(follows.follow(&Bytes::new()));
        assert_eq!(follows.gate(seconds(0)), Gate::Open);
    }
}
