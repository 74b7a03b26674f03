//! Steps that are done to two stores, which must say and show the same.

use std::sync::Arc;

use claudepool::clock::Timestamp;
use claudepool::id::{CallerId, ConversationId, GroupId, RequestId, TaskId};
use claudepool::money::Microdollars;
use claudepool::pb::{FailureReason, RequeueReason};
use claudepool::store::conformance::fixture::{
    at, delta, fence, made, queued, snapshot, success, wish,
};
use claudepool::store::memory::Memory;
use claudepool::store::{
    Batch, ClaimRequest, Fence, Note, Request, SessionNote, SessionRef, Store,
};
use claudepool::task::apply::Requeue;
use claudepool::task::{Bill, Change, Level, State, Task, TaskEvent, apply};
use proptest::prelude::*;

/// One thing done to both. `pick` chooses among the tasks made so far.
#[derive(Clone, Debug)]
pub enum Step {
    Submit {
        shape: u8,
        ready: i64,
        budget: i64,
    },
    Claim {
        slots: usize,
    },
    Finish {
        pick: usize,
        cost: i64,
        long: bool,
    },
    Requeue {
        pick: usize,
        cost: i64,
    },
    Cancel {
        pick: usize,
    },
    Abandon {
        pick: usize,
        time: Option<i64>,
    },
    Append {
        pick: usize,
        late: bool,
        cost: Option<i64>,
    },
    Stale {
        pick: usize,
    },
    HalfBad {
        pick: usize,
    },
    Delete {
        pick: usize,
        late: bool,
    },
    Purge {
        age: i64,
        limit: usize,
    },
    Sweep,
    Budget {
        limit: Option<i64>,
    },
    Context {
        key: u8,
        set: bool,
    },
}

/// A step by chance.
pub fn step() -> impl Strategy<Value = Step> {
    let pick = any::<usize>();
    let cost = 0..150_i64;
    prop_oneof![
        6 => (any::<u8>(), 0..9_i64, 0..200_i64)
            .prop_map(|(shape, ready, budget)| Step::Submit { shape, ready, budget }),
        4 => (0..4_usize).prop_map(|slots| Step::Claim { slots }),
        3 => (pick, cost.clone(), any::<bool>())
            .prop_map(|(pick, cost, long)| Step::Finish { pick, cost, long }),
        2 => (pick, cost).prop_map(|(pick, cost)| Step::Requeue { pick, cost }),
        2 => pick.prop_map(|pick| Step::Cancel { pick }),
        1 => (pick, proptest::option::of(0..30_i64))
            .prop_map(|(pick, time)| Step::Abandon { pick, time }),
        3 => (pick, any::<bool>(), proptest::option::of(0..150_i64))
            .prop_map(|(pick, late, cost)| Step::Append { pick, late, cost }),
        1 => pick.prop_map(|pick| Step::Stale { pick }),
        1 => pick.prop_map(|pick| Step::HalfBad { pick }),
        2 => (pick, any::<bool>()).prop_map(|(pick, late)| Step::Delete { pick, late }),
        1 => (0..20_i64, 0..5_usize).prop_map(|(age, limit)| Step::Purge { age, limit }),
        1 => Just(Step::Sweep),
        1 => proptest::option::of(0..500_i64).prop_map(|limit| Step::Budget { limit }),
        1 => (0..3_u8, any::<bool>()).prop_map(|(key, set)| Step::Context { key, set }),
    ]
}

/// What the steps know: the tasks they made.
struct World {
    stores: [Arc<dyn Store>; 2],
    made: Vec<Task>,
    group: GroupId,
    requests: Vec<Request>,
    now: Timestamp,
}

impl World {
    /// Does the same to both stores, which must say the same.
    async fn both<T: std::fmt::Debug>(&self, act: impl AsyncFn(&dyn Store) -> T) -> T {
        let [memory, other] = &self.stores;
        let (left, right) = (act(&**memory).await, act(&**other).await);
        assert_eq!(format!("{left:?}"), format!("{right:?}"));
        left
    }

    async fn picked(&self, pick: usize) -> Option<Task> {
        let id = self.made.get(pick % self.made.len().max(1))?.id;
        let parts = claudepool::store::Parts::ROW;
        let record = self.both(async |store| store.record(id, parts).await).await;
        record.expect("read").map(|record| record.task)
    }

    async fn commit(&self, request: Option<Request>, changes: Vec<Change>) {
        let batch = Batch {
            request,
            changes,
            now: self.now,
        };
        let _ = self
            .both(async |store| store.commit(batch.clone()).await)
            .await;
    }

    async fn happen(&self, pick: usize, event: impl FnOnce(&Task) -> TaskEvent) {
        let Some(task) = self.picked(pick).await else {
            return;
        };
        if let Ok(Some(change)) = apply(&task, event(&task), self.now) {
            self.commit(None, vec![change]).await;
        }
    }

    fn shaped(&self, shape: u8, ready: i64, budget: i64) -> Task {
        let bit = |n: u8| shape >> n & 1 == 1;
        Task {
            caller: CallerId::from(if bit(0) { "alice" } else { "bob" }),
            rank: u8::from(bit(1)),
            group: bit(2).then_some(self.group),
            place: u32::from(shape),
            parent: self.made.first().filter(|_| bit(3)).map(|task| task.id),
            tags: if bit(4) {
                vec!["red".to_owned()]
            } else {
                Vec::new()
            },
            queue_deadline: bit(5).then(|| at(ready + 5)),
            attached: bit(6),
            saves_session: shape.is_multiple_of(2),
            conversation: shape
                .is_multiple_of(3)
                .then(|| ConversationId::of_key(&format!("{}", shape % 2))),
            level: Level(1 + u16::from(shape.is_multiple_of(5))),
            ready_time: at(ready),
            budget: Microdollars(budget),
            request: bit(7).then(RequestId::new),
            create_time: self.now,
            ..queued()
        }
    }

    async fn act(&mut self, step: Step) {
        self.now = Timestamp(self.now.0 + 1_000_000);
        let now = self.now;
        match step {
            Step::Submit {
                shape,
                ready,
                budget,
            } => {
                let task = self.shaped(shape, ready, budget);
                let request = task.request.map(|id| Request {
                    caller: task.caller.clone(),
                    id,
                    fingerprint: [shape; 32],
                    task: task.id,
                    group: task.group,
                    expire_time: at(20),
                    deleted: false,
                });
                self.commit(request.clone(), vec![made(task.clone())]).await;
                self.made.push(task);
                self.requests.extend(request);
            }
            Step::Claim { slots } => {
                // A shared store's leases run by its own clock.
                let wish = ClaimRequest {
                    lease: None,
                    level: Level(1 + u16::from(slots.is_multiple_of(2))),
                    ..wish(slots, now)
                };
                let _ = self
                    .both(async |store| store.claim(wish.clone()).await)
                    .await;
            }
            Step::Finish { pick, cost, long } => {
                let output = long.then(|| Arc::from("the whole text"));
                self.happen(pick, |task| success(task, cost, output)).await;
            }
            Step::Requeue { pick, cost } => {
                self.happen(pick, |task| {
                    TaskEvent::Requeue(Requeue {
                        attempt: task.attempt,
                        reason: RequeueReason::Interrupted,
                        burn: false,
                        ready_time: now,
                        bill: Bill::estimate(Microdollars(cost)),
                        failure_reason: FailureReason::Unspecified,
                        message: String::new(),
                    })
                })
                .await;
            }
            Step::Cancel { pick } => {
                self.happen(pick, |_| TaskEvent::Cancel { by: "caller" })
                    .await;
            }
            Step::Abandon { pick, time } => {
                self.happen(pick, |_| TaskEvent::Abandon(time.map(at)))
                    .await;
            }
            Step::Append { pick, late, cost } => {
                let Some(task) = self.picked(pick).await else {
                    return;
                };
                let fence = Fence {
                    attempt: task.attempt + u32::from(late),
                    ..fence(&task)
                };
                let note = Note {
                    cost: cost.map(Microdollars),
                    session: cost.map(|cost| SessionNote {
                        id: format!("session-{}", cost % 4),
                        offset: cost,
                    }),
                };
                let append = async |store: &dyn Store| {
                    let note = note.clone();
                    store.append(fence, vec![delta("x")], note, now).await
                };
                let _ = self.both(append).await;
            }
            Step::Stale { pick } => {
                if let Some(mut task) = self.picked(pick).await {
                    task.version += 1;
                    self.commit(None, vec![Change::of(&task)]).await;
                }
            }
            Step::HalfBad { pick } => {
                if let Some(task) = self.picked(pick).await {
                    let new = queued();
                    let changes = vec![made(new), Change::of(&task), made(task)];
                    self.commit(None, changes).await;
                }
            }
            Step::Delete { pick, late } => {
                if let Some(task) = self.picked(pick).await {
                    let version = task.version + u64::from(late);
                    let _ = self
                        .both(async |store| store.delete(task.id, version).await)
                        .await;
                }
            }
            Step::Purge { age, limit } => {
                let before = Timestamp(now.0 - age * 1_000_000);
                let ended = [State::Cancelled, State::Succeeded].map(|state| (state, before));
                let old = self
                    .both(async |store| store.outdated(&ended, limit).await)
                    .await;
                for task in old.expect("read") {
                    let _ = self
                        .both(async |store| store.delete(task.id, task.version).await)
                        .await;
                }
                // Of several that expire which ones go is the store's choice.
                let _ = self
                    .both(async |store| store.expire_requests(before, usize::MAX).await)
                    .await;
            }
            Step::Sweep => {
                for store in &self.stores {
                    store.sweep().await.expect("swept");
                }
            }
            Step::Budget { limit } => {
                let limit = limit.map(Microdollars);
                let _ = self.both(async |store| store.set_budget(limit).await).await;
            }
            Step::Context { key, set } => {
                let revision = self.both(async |store| store.context().await).await;
                let revision = revision.expect("read").revision;
                let (key, value) = (format!("key-{key}"), set.then_some("value"));
                let _ = self
                    .both(async |store| store.set_context(revision, &key, value, now).await)
                    .await;
            }
        }
    }

    async fn compare(&self) {
        let [memory, other] = &self.stores;
        assert_eq!(snapshot(&**memory).await, snapshot(&**other).await);
        for request in &self.requests {
            let (caller, id) = (&request.caller, request.id);
            let _ = self
                .both(async |store| store.request(caller, id, self.now).await)
                .await;
        }
        for caller in ["alice", "bob"].map(CallerId::from) {
            for which in [
                SessionRef::Id("session".to_owned()),
                SessionRef::Conversation(ConversationId::of_key("0")),
                SessionRef::Conversation(ConversationId::of_key("1")),
            ] {
                let _ = self
                    .both(async |store| store.session(&caller, &which).await)
                    .await;
            }
        }
        let before = at(30);
        let _ = self
            .both(async |store| store.expire_sessions(before, 2).await)
            .await;
        let parts = claudepool::store::Parts::ALL;
        let group = self.group;
        let _ = self
            .both(async |store| store.group(group, parts).await)
            .await;
        for id in self.made.iter().map(|task| task.id).chain([TaskId::new()]) {
            let _ = self.both(async |store| store.log(id, 1, 60).await).await;
        }
    }
}

/// Does the same to a store and to one in memory: both show the same.
pub async fn same(other: Arc<dyn Store>, steps: Vec<Step>) {
    let mut world = World {
        stores: [Arc::new(Memory::new()), other],
        made: Vec::new(),
        group: GroupId::new(),
        requests: Vec::new(),
        now: at(0),
    };
    for step in steps {
        world.act(step).await;
    }
    world.compare().await;
}
