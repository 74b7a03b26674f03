//! What is done in a transaction, on the writer's thread.

use std::sync::LazyLock;

use prost::Message;
use rusqlite::{Connection, OptionalExtension, params};

use super::read::{self, SELECT_TASK};
use crate::budget::{Entry, Funds};
use crate::clock::Timestamp;
use crate::event;
use crate::id::TaskId;
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::store::choice::Choice;
use crate::store::row::{self, COLUMNS, FIXED, Row, integer};
use crate::store::{
    Batch, ClaimRequest, Claimed, ClaimedTask, Committed, Fence, LogEntry, Note, Request,
    StoreError,
};
use crate::task::{Change, Spec, State, Task};

/// Size of a piece of a whole output.
pub(super) const PIECE_BYTES: usize = 256 * 1024;

/// Sums that are kept beside what they sum up, so that nobody has to add up a
/// million rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Books {
    pub funds: Funds,
    /// Tasks by the number of their state, without chains' steps.
    pub counts: [i64; State::ALL.len() + 1],
}

impl Books {
    /// As last committed.
    pub fn read(conn: &Connection) -> Result<Self, StoreError> {
        let totals = read::totals(conn)?;
        let mut books = Self {
            funds: totals.funds,
            counts: Default::default(),
        };
        for (state, count) in totals.tasks {
            books.counts[number(state)] = integer(count);
        }
        Ok(books)
    }

    /// Writes what differs from `before`.
    pub fn write(&self, conn: &Connection, before: &Self) -> Result<(), StoreError> {
        if self.funds != before.funds {
            conn.prepare_cached("UPDATE funds SET spent = ?, reserved = ?, budget_limit = ?")?
                .execute(params![
                    self.funds.spent.0,
                    self.funds.reserved.0,
                    self.funds.limit.map(|limit| limit.0)
                ])?;
        }
        for state in State::ALL {
            let count = self.counts[number(state)];
            if count != before.counts[number(state)] {
                conn.prepare_cached("INSERT OR REPLACE INTO counts (state, tasks) VALUES (?, ?)")?
                    .execute(params![state.to_proto() as i32, count])?;
            }
        }
        Ok(())
    }

    fn count(&mut self, task: &Counted, by: i64) {
        if task.counts {
            self.counts[number(task.state)] += by;
        }
    }
}

/// What decides where a task is counted.
struct Counted {
    state: State,
    counts: bool,
}

fn number(state: State) -> usize {
    // The wire's numbers of our states are 1 to 7.
    state.to_proto() as usize
}

static INSERT: LazyLock<String> = LazyLock::new(|| {
    let holes = vec!["?"; COLUMNS.len()].join(", ");
    format!(
        "INSERT INTO tasks ({}) VALUES ({holes})",
        COLUMNS.join(", ")
    )
});

/// Numbered like the columns, so that both statements take the same row.
static UPDATE: LazyLock<String> = LazyLock::new(|| {
    let set: Vec<String> = (1..)
        .zip(COLUMNS)
        .filter(|(_, column)| !FIXED.contains(column))
        .map(|(place, column)| format!("{column} = ?{place}"))
        .collect();
    format!("UPDATE tasks SET {} WHERE id = ?1", set.join(", "))
});

/// What of a stored row a change has to know.
struct Stored {
    version: i64,
    state: State,
    step: bool,
    attempt: i64,
    attempt_cost: i64,
    last_sequence: i64,
    session_id: String,
    session_offset: i64,
}

/// A transaction of the writer.
pub(super) struct Transaction<'c> {
    pub conn: &'c Connection,
    pub books: Books,
}

impl Transaction<'_> {
    pub fn commit(&mut self, batch: Batch) -> Result<Vec<Committed>, StoreError> {
        if let Some(request) = &batch.request {
            self.is_new(request, batch.now)?;
        }
        let changes = batch.changes.into_iter();
        let committed = changes
            .map(|change| self.change(change, batch.now).map(|(_, done)| done))
            .collect::<Result<_, _>>()?;
        if let Some(request) = &batch.request {
            self.remember(request)?;
        }
        Ok(committed)
    }

    pub fn claim(&mut self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        let mut choice = Choice::new(request, self.books.funds, request.now);
        let mut rank = read::rank_from(self.conn, 0)?;
        while let Some(r) = rank {
            self.choose(&mut choice, r, request.now)?;
            rank = read::rank_from(self.conn, r + 1)?;
        }
        let (taken, mut claimed) = choice.finish();
        // What may fail first: they were chosen in this transaction, so their changes
        // find no conflict.
        let specs: Vec<Spec> = taken
            .iter()
            .map(|(_, change)| self.spec(change.task.id))
            .collect::<Result<_, _>>()?;
        for ((slot, change), spec) in taken.into_iter().zip(specs) {
            let (task, committed) = self.change(change, request.now)?;
            claimed.tasks.push(ClaimedTask {
                slot,
                task,
                spec: spec.into(),
                committed,
            });
        }
        claimed.next_ready = read::next_ready(self.conn, request.now)?;
        Ok(claimed)
    }

    pub fn append(
        &mut self,
        fence: Fence,
        events: Vec<Kind>,
        note: Note,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let stored = self.stored(fence.task)?.ok_or(StoreError::Fenced)?;
        if stored.attempt != i64::from(fence.attempt) || !stored.state.is_active() {
            return Err(StoreError::Fenced);
        }
        let after = sequence(fence.task, stored.last_sequence)?;
        let entries = self.log(fence.task, after, events, now)?;
        self.conn
            .prepare_cached("UPDATE tasks SET last_sequence = ?, attempt_cost = ? WHERE id = ?")?
            .execute(params![
                stored.last_sequence + integer(entries.len() as u64),
                note.cost.map_or(stored.attempt_cost, |cost| cost.0),
                fence.task.as_bytes()
            ])?;
        if let Some(session) = note.session {
            self.conn
                .prepare_cached("UPDATE tasks SET session_id = ?, session_offset = ? WHERE id = ?")?
                .execute(params![session.id, session.offset, fence.task.as_bytes()])?;
        }
        Ok(Committed {
            task: fence.task,
            state: stored.state,
            entries,
        })
    }

    /// Counts an ended task no more.
    pub fn uncount(&mut self, task: &Task) {
        let counted = Counted {
            state: task.state,
            counts: task.parent.is_none(),
        };
        self.books.count(&counted, -1);
    }

    pub fn set_budget(&mut self, limit: Option<Microdollars>) -> Funds {
        self.books.funds.limit = limit;
        self.books.funds
    }

    pub fn set_context(
        &mut self,
        revision: u64,
        key: &str,
        value: Option<&str>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let next = revision + 1;
        let set = self
            .conn
            .prepare_cached("UPDATE context_revision SET revision = ? WHERE revision = ?")?
            .execute([integer(next), integer(revision)])?;
        if set == 0 {
            return Err(StoreError::Conflict);
        }
        match value {
            Some(value) => self
                .conn
                .prepare_cached(
                    "INSERT OR REPLACE INTO context (key, value, update_time) VALUES (?, ?, ?)",
                )?
                .execute(params![key, value, now.0])?,
            None => self
                .conn
                .prepare_cached("DELETE FROM context WHERE key = ?")?
                .execute([key])?,
        };
        Ok(next)
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn limit_pages(&self, left: u32) -> Result<(), StoreError> {
        let read = |sql: &str| self.conn.query_row(sql, [], |row| row.get::<_, i64>(0));
        let pages = read("PRAGMA page_count")?;
        read(&format!(
            "PRAGMA max_page_count = {}",
            pages + i64::from(left)
        ))?;
        Ok(())
    }

    fn is_new(&self, request: &Request, now: Timestamp) -> Result<(), StoreError> {
        match read::request(self.conn, &request.caller, request.id)? {
            Some(known) if known.is_remembered(now) => {
                Err(StoreError::RequestExists(Box::new(known)))
            }
            _ => Ok(()),
        }
    }

    fn remember(&self, request: &Request) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO requests (caller, id, fingerprint, task, group_id, \
                 expire_time, deleted) VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                request.caller.0,
                request.id.as_bytes(),
                request.fingerprint,
                request.task.as_bytes(),
                request.group.map(|group| *group.as_bytes()),
                request.expire_time.0,
                request.deleted
            ])?;
        Ok(())
    }

    /// Carries out one change; the row as it is then, and what its log got. A
    /// conflict is found before anything is written.
    fn change(&mut self, change: Change, now: Timestamp) -> Result<(Task, Committed), StoreError> {
        let mut task = change.task;
        let id = task.id;
        let stored = self.stored(id)?;
        if stored.as_ref().map(|s| s.version) != change.expect.map(integer) {
            return Err(StoreError::Conflict);
        }
        let funds = |funds: Funds, entry: &Entry| funds.book(*entry);
        if change
            .ledger
            .iter()
            .try_fold(self.books.funds, funds)
            .is_none()
        {
            return Err(StoreError::Conflict);
        }
        task.last_sequence = 0;
        if let Some(stored) = &stored {
            if stored.attempt == i64::from(task.attempt) && task.state.is_active() {
                task.attempt_cost = Microdollars(stored.attempt_cost);
                task.session_id.clone_from(&stored.session_id);
                task.session_offset = stored.session_offset;
            }
            task.last_sequence = sequence(id, stored.last_sequence)?;
        }
        let entries = self.log(id, task.last_sequence, change.events, now)?;
        task.last_sequence += entries.len() as u64;

        let counts = match &stored {
            Some(stored) => !stored.step,
            None => task.parent.is_none(),
        };
        if let Some(stored) = &stored {
            let state = stored.state;
            self.books.count(&Counted { state, counts }, -1);
            self.write(&UPDATE, &task)?;
        } else {
            self.write(&INSERT, &task)?;
            for tag in &task.tags {
                self.conn
                    .prepare_cached("INSERT OR IGNORE INTO task_tags (tag, task) VALUES (?, ?)")?
                    .execute(params![tag, id.as_bytes()])?;
            }
        }
        let state = task.state;
        self.books.count(&Counted { state, counts }, 1);
        if let Some(spec) = change.spec {
            let (received, effective, chain) = (
                spec.received.encode_to_vec(),
                spec.effective.encode_to_vec(),
                spec.chain.as_ref().map(Message::encode_to_vec),
            );
            self.conn
                .prepare_cached(
                    "INSERT OR REPLACE INTO task_specs (task, received, effective, chain) \
                     VALUES (?, ?, ?, ?)",
                )?
                .execute(params![id.as_bytes(), received, effective, chain])?;
        }
        if let Some(result) = change.result {
            self.conn
                .prepare_cached("INSERT OR REPLACE INTO task_results (task, result) VALUES (?, ?)")?
                .execute(params![id.as_bytes(), result.encode_to_vec()])?;
        }
        if let Some(output) = change.output {
            self.output(id, output.as_bytes())?;
        }
        for entry in change.ledger {
            self.book(id, entry, now)?;
        }
        if let Some(session) = change.session {
            self.save_session(&session)?;
        }
        let committed = Committed {
            task: id,
            state: task.state,
            entries,
        };
        Ok((task, committed))
    }

    fn stored(&self, id: TaskId) -> Result<Option<Stored>, StoreError> {
        self.conn
            .prepare_cached(
                "SELECT version, state, parent_id IS NOT NULL, attempt, attempt_cost,
                 last_sequence, session_id, session_offset FROM tasks WHERE id = ?",
            )?
            .query_row([id.as_bytes()], |row| {
                let state = State::from_number(row.get(1)?);
                Ok(state.map(|state| {
                    Ok(Stored {
                        version: row.get(0)?,
                        state,
                        step: row.get(2)?,
                        attempt: row.get(3)?,
                        attempt_cost: row.get(4)?,
                        last_sequence: row.get(5)?,
                        session_id: row.get(6)?,
                        session_offset: row.get(7)?,
                    })
                }))
            })
            .optional()?
            .map(|stored| {
                let stored = stored.ok_or_else(|| row::damaged(id, "state"))?;
                stored.map_err(|error: rusqlite::Error| error.into())
            })
            .transpose()
    }

    fn log(
        &self,
        id: TaskId,
        mut sequence: u64,
        events: Vec<Kind>,
        now: Timestamp,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let mut insert = self
            .conn
            .prepare_cached("INSERT INTO events (task, sequence, bytes) VALUES (?, ?, ?)")?;
        let mut entries = Vec::with_capacity(events.len());
        for kind in events {
            sequence += 1;
            let bytes = event::encode(sequence, now, kind);
            insert.execute(params![id.as_bytes(), integer(sequence), &bytes[..]])?;
            entries.push(LogEntry { sequence, bytes });
        }
        Ok(entries)
    }

    fn output(&self, id: TaskId, bytes: &[u8]) -> Result<(), StoreError> {
        self.conn
            .prepare_cached("DELETE FROM task_outputs WHERE task = ?")?
            .execute([id.as_bytes()])?;
        let mut insert = self
            .conn
            .prepare_cached("INSERT INTO task_outputs (task, piece, bytes) VALUES (?, ?, ?)")?;
        // An empty text is one empty piece: it was kept.
        let pieces = bytes
            .chunks(PIECE_BYTES)
            .chain(bytes.is_empty().then_some(bytes));
        for (place, piece) in (0_i64..).zip(pieces) {
            insert.execute(params![id.as_bytes(), place, piece])?;
        }
        Ok(())
    }

    fn book(&mut self, task: TaskId, entry: Entry, now: Timestamp) -> Result<(), StoreError> {
        let (kind, reserved, cost, estimated) = match entry {
            Entry::Reserve(amount) => (1, amount, Microdollars::ZERO, false),
            Entry::Settle {
                reserved,
                cost,
                estimated,
            } => (2, reserved, cost, estimated),
            Entry::Correct(cost) => (3, Microdollars::ZERO, cost, false),
        };
        let funds = self.books.funds.book(entry).ok_or(StoreError::Conflict)?;
        self.conn
            .prepare_cached(
                "INSERT INTO ledger (task, time, kind, reserved, cost, estimated)
                 VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                task.as_bytes(),
                now.0,
                kind,
                reserved.0,
                cost.0,
                estimated
            ])?;
        self.books.funds = funds;
        Ok(())
    }

    /// Offers the ready tasks of one rank in their order.
    fn choose(&self, choice: &mut Choice<'_>, rank: i64, now: Timestamp) -> Result<(), StoreError> {
        let mut ready = self.conn.prepare_cached(&format!(
            "{SELECT_TASK} INDEXED BY tasks_ready WHERE state = 1 AND rank <> 255 AND rank = ? AND ready_time <= ?
             ORDER BY ready_time, id"
        ))?;
        let mut rows = ready.query(params![rank, now.0])?;
        while choice.wants_more()
            && let Some(row) = rows.next()?
        {
            let task = read::row(row)?.into_task()?;
            if !choice.suits(&task) {
                continue;
            }
            if self.waits(&task, choice)? {
                choice.pass_conversation();
            } else {
                choice.offer(task)?;
            }
        }
        Ok(())
    }

    fn spec(&self, id: TaskId) -> Result<Spec, StoreError> {
        let (received, effective, chain): (Vec<u8>, Vec<u8>, Option<Vec<u8>>) = self
            .conn
            .prepare_cached("SELECT received, effective, chain FROM task_specs WHERE task = ?")?
            .query_row([id.as_bytes()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?
            .ok_or_else(|| StoreError::Corrupt(format!("task {id} has no spec")))?;
        row::spec(id, &received, &effective, chain.as_deref())
    }

    #[rustfmt::skip]
    fn write(&self, sql: &str, task: &Task) -> Result<(), StoreError> {
        let r = Row::of(task);
        let mut statement = self.conn.prepare_cached(sql)?;
        let values: [(usize, &dyn rusqlite::ToSql); COLUMNS.len()] = [
            (1, &r.id), (2, &r.version), (3, &r.caller), (4, &r.state), (5, &r.tags),
            (6, &r.group), (7, &r.parent), (8, &r.place), (9, &r.rank), (10, &r.request),
            (11, &r.create_time), (12, &r.ready_time), (13, &r.start_time),
            (14, &r.end_time), (15, &r.queue_deadline), (16, &r.attached),
            (17, &r.abandon_time), (18, &r.attempt), (19, &r.burnt), (20, &r.slot),
            (21, &r.lease_node), (22, &r.lease_until), (23, &r.session_id),
            (24, &r.context_revision), (25, &r.budget), (26, &r.reserved), (27, &r.cost),
            (28, &r.attempt_cost), (29, &r.cost_estimated), (30, &r.recovery),
            (31, &r.saves_session), (32, &r.conversation), (33, &r.last_sequence),
            (34, &r.due_time), (35, &r.trace), (36, &r.usage),
            (37, &r.session_offset), (38, &r.node_label), (39, &r.level),
            (40, &r.home),
        ];
        for (place, value) in values {
            statement.raw_bind_parameter(place, value)?;
        }
        statement.raw_execute()?;
        Ok(())
    }
}

fn sequence(task: TaskId, stored: i64) -> Result<u64, StoreError> {
    u64::try_from(stored).map_err(|_| row::damaged(task, "last_sequence"))
}
