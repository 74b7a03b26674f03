//! Changes, written in few statements however many they are.

use futures_util::future::try_join_all;
use prost::Message;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::call::{Tx, Work};
use super::columns::{self, INSERT, SELECT, UPDATE, arrays, uuid};
use super::fault::Fault;
use super::fold::{Fold, Pending, Sums, number, pieces};
use super::text::kept;
use crate::budget::{Entry, Funds};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::store::row::{self, Row, integer};
use crate::store::{Batch, Committed, Fence, LogEntry, Note, Request, StoreError};
use crate::task::{Change, State, Task};

/// Size of a piece of a whole output.
pub(super) const PIECE_BYTES: usize = 256 * 1024;

/// Now by the database's clock, which all servers share.
pub(super) const CLOCK: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Money that the sums cannot hold stays at their end, as everywhere.
pub(super) const FUNDS: &str = "SELECT \
    greatest(least(sum(spent), 9223372036854775807), -9223372036854775808)::bigint, \
    greatest(least(sum(reserved), 9223372036854775807), -9223372036854775808)::bigint FROM books";

impl Tx {
    pub async fn commit(&self, batch: Batch) -> Result<Vec<Committed>, Fault> {
        if let Some(request) = &batch.request {
            self.remember(request, batch.now).await?;
        }
        let changed = batch.changes.iter().filter(|c| c.expect.is_some());
        let ids: Vec<Uuid> = changed.map(|c| uuid(c.task.id.as_bytes())).collect();
        let stored = match ids.is_empty() {
            true => Vec::new(),
            false => self.lock(&ids).await?,
        };
        let reserves = |change: &Change| {
            let mut entries = change.ledger.iter();
            entries.any(|entry| matches!(entry, Entry::Reserve(_)))
        };
        let mut funds = match batch.changes.iter().any(reserves) {
            true => self.lock_funds().await?.0,
            false => Funds::default(),
        };
        let mut fold = Fold::over(stored);
        let mut committed = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            committed.push(fold.change(change, &mut funds, batch.now)?);
        }
        self.write(&fold, batch.now).await?;
        Ok(committed)
    }

    /// The rows, which stay as they are until the end. In order of their ids, so
    /// that nobody waits for who waits for them.
    async fn lock(&self, ids: &[Uuid]) -> Result<Vec<Task>, Fault> {
        let sql = format!("{} WHERE t.id = ANY($1) ORDER BY t.id FOR UPDATE", *SELECT);
        let rows = self.rows(&sql, &[&ids]).await?;
        rows.iter().map(columns::task).collect()
    }

    /// What reservations can be made of, and the database's time. With a limit
    /// nobody else reserves until the end; without one others do, too, but
    /// nobody sets one.
    pub async fn lock_funds(&self) -> Result<(Funds, Timestamp), Fault> {
        // Once: another call may see the limit while this one waits for the row.
        let saw_limit = self.saw_limit();
        let how = match saw_limit {
            true => "UPDATE",
            false => "SHARE",
        };
        let sql = format!("SELECT budget_limit, {CLOCK} FROM budget FOR {how}");
        let rows = self.rows(&sql, &[]).await?;
        let row = rows.first().ok_or_else(|| missing("budget"))?;
        let limit: Option<i64> = row.try_get(0)?;
        let now = Timestamp(row.try_get(1)?);
        if limit.is_some() != saw_limit {
            self.see_limit(limit.is_some());
            if limit.is_some() {
                // Locked for sharing: two of them would wait for each other.
                return Err(Fault::Again);
            }
        }
        let mut funds = Funds::default();
        if let Some(limit) = limit {
            funds = self.funds().await?;
            funds.limit = Some(Microdollars(limit));
        }
        Ok((funds, now))
    }

    /// What was spent and is reserved, as far as it is committed.
    async fn funds(&self) -> Result<Funds, Fault> {
        let rows = self.rows(FUNDS, &[]).await?;
        let row = rows.first().ok_or_else(|| missing("books"))?;
        Ok(Funds {
            spent: Microdollars(row.try_get(0)?),
            reserved: Microdollars(row.try_get(1)?),
            limit: None,
        })
    }

    pub async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, Fault> {
        let sql = "UPDATE budget SET budget_limit = $1";
        self.run(sql, &[&limit.map(|limit| limit.0)]).await?;
        self.see_limit(limit.is_some());
        let funds = self.funds().await?;
        Ok(Funds { limit, ..funds })
    }

    async fn remember(&self, request: &Request, now: Timestamp) -> Result<(), Fault> {
        // Whoever makes the same request at the same time waits here.
        let sql = "INSERT INTO requests AS r
            (caller, id, fingerprint, task, group_id, expire_time, deleted)
            VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT (caller, id) DO UPDATE SET fingerprint = excluded.fingerprint,
            task = excluded.task, group_id = excluded.group_id,
            expire_time = excluded.expire_time, deleted = excluded.deleted
            WHERE r.expire_time < $8";
        let id = uuid(request.id.as_bytes());
        let caller = kept(&request.caller.0);
        let fingerprint = &request.fingerprint[..];
        let group = request.group.map(|group| uuid(group.as_bytes()));
        let task = uuid(request.task.as_bytes());
        let (expires, deleted) = (request.expire_time.0, request.deleted);
        let made = self
            .run(
                sql,
                &[
                    &caller,
                    &id,
                    &fingerprint,
                    &task,
                    &group,
                    &expires,
                    &deleted,
                    &now.0,
                ],
            )
            .await?;
        if made > 0 {
            return Ok(());
        }
        let found = self.rows(super::read::REQUEST, &[&caller, &id]).await?;
        // Forgotten at this very moment: it can be made.
        let found = found.first().ok_or(Fault::Again)?;
        let known = super::read::request_of(found, &request.caller, request.id)?;
        Err(StoreError::RequestExists(Box::new(known)).into())
    }

    /// Writes what was folded. The sums last: their row is others', too.
    pub async fn write(&self, fold: &Fold, now: Timestamp) -> Result<(), Fault> {
        let (new, old): (Vec<&Pending>, Vec<&Pending>) =
            fold.rows.values().partition(|pending| pending.is_new);
        let mut work: Vec<Work<'_, ()>> = Vec::new();
        if !new.is_empty() {
            work.push(Box::pin(self.put_rows(&INSERT, &new)));
            work.push(Box::pin(self.put_tags(&new)));
        }
        if !old.is_empty() {
            work.push(Box::pin(self.put_rows(&UPDATE, &old)));
        }
        work.push(Box::pin(self.put_specs(fold)));
        work.push(Box::pin(self.put_results(fold)));
        work.push(Box::pin(self.put_outputs(fold)));
        work.push(Box::pin(self.put_events(&fold.events)));
        work.push(Box::pin(self.put_ledger(&fold.ledger, now)));
        work.push(Box::pin(self.put_sessions(fold)));
        // Sent one after the other, without waiting for the answers between.
        try_join_all(work).await?;
        self.add(&fold.sums).await
    }

    async fn put_rows(&self, sql: &str, rows: &[&Pending]) -> Result<(), Fault> {
        let rows: Vec<Row> = rows.iter().map(|p| Row::of(&p.task)).collect();
        let boxes = arrays(&rows);
        self.run(sql, &columns::values(&boxes)).await.map(drop)
    }

    async fn put_tags(&self, new: &[&Pending]) -> Result<(), Fault> {
        let pairs = new
            .iter()
            .flat_map(|p| p.task.tags.iter().map(move |t| (t, p.task.id)));
        let (tags, ids): (Vec<_>, Vec<_>) = pairs
            .map(|(tag, id)| (kept(tag), uuid(id.as_bytes())))
            .unzip();
        if tags.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO task_tags (tag, task) SELECT * FROM unnest($1::text[], $2::uuid[])
                   ON CONFLICT DO NOTHING";
        self.run(sql, &[&tags, &ids]).await.map(drop)
    }

    async fn put_specs(&self, fold: &Fold) -> Result<(), Fault> {
        let (mut ids, mut received, mut effective, mut chains) = (vec![], vec![], vec![], vec![]);
        for pending in fold.rows.values() {
            if let Some(spec) = &pending.spec {
                ids.push(uuid(pending.task.id.as_bytes()));
                received.push(spec.received.encode_to_vec());
                effective.push(spec.effective.encode_to_vec());
                chains.push(spec.chain.as_ref().map(Message::encode_to_vec));
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO task_specs (task, received, effective, chain)
            SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[])
            ON CONFLICT (task) DO UPDATE SET received = excluded.received,
            effective = excluded.effective, chain = excluded.chain";
        self.run(sql, &[&ids, &received, &effective, &chains])
            .await
            .map(drop)
    }

    async fn put_results(&self, fold: &Fold) -> Result<(), Fault> {
        let results = fold
            .rows
            .values()
            .filter_map(|p| Some((p, p.result.as_ref()?)));
        let (ids, results): (Vec<_>, Vec<_>) = results
            .map(|(p, result)| (uuid(p.task.id.as_bytes()), result.encode_to_vec()))
            .unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO task_results (task, result)
                   SELECT * FROM unnest($1::uuid[], $2::bytea[])
                   ON CONFLICT (task) DO UPDATE SET result = excluded.result";
        self.run(sql, &[&ids, &results]).await.map(drop)
    }

    async fn put_outputs(&self, fold: &Fold) -> Result<(), Fault> {
        for pending in fold.rows.values() {
            let Some(output) = &pending.output else {
                continue;
            };
            let id = uuid(pending.task.id.as_bytes());
            if !pending.is_new {
                self.run("DELETE FROM task_outputs WHERE task = $1", &[&id])
                    .await?;
            }
            for (place, piece) in (0_i64..).zip(pieces(output, PIECE_BYTES)) {
                let sql = "INSERT INTO task_outputs (task, piece, bytes) VALUES ($1, $2, $3)";
                self.run(sql, &[&id, &place, &&piece[..]]).await?;
            }
        }
        Ok(())
    }

    async fn put_events(&self, events: &[(TaskId, LogEntry)]) -> Result<(), Fault> {
        if events.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = events.iter().map(|(id, _)| uuid(id.as_bytes())).collect();
        let numbers: Vec<_> = events.iter().map(|(_, e)| integer(e.sequence)).collect();
        let bytes: Vec<&[u8]> = events.iter().map(|(_, entry)| &entry.bytes[..]).collect();
        let sql = "INSERT INTO events (task, sequence, bytes)
                   SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[])";
        self.run(sql, &[&ids, &numbers, &bytes]).await.map(drop)
    }

    async fn put_ledger(&self, ledger: &[(TaskId, Entry)], now: Timestamp) -> Result<(), Fault> {
        if ledger.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = ledger.iter().map(|(id, _)| uuid(id.as_bytes())).collect();
        let entries: Vec<_> = ledger
            .iter()
            .map(|(_, e)| super::fold::columns(*e))
            .collect();
        let kinds: Vec<_> = entries.iter().map(|entry| entry.0).collect();
        let reserved: Vec<_> = entries.iter().map(|entry| entry.1.0).collect();
        let costs: Vec<_> = entries.iter().map(|entry| entry.2.0).collect();
        let estimated: Vec<_> = entries.iter().map(|entry| entry.3).collect();
        let sql = "INSERT INTO ledger (task, time, kind, reserved, cost, estimated)
            SELECT task, $2, kind, reserved, cost, estimated FROM unnest($1::uuid[],
            $3::integer[], $4::bigint[], $5::bigint[], $6::boolean[])
            AS n (task, kind, reserved, cost, estimated)";
        let values: [&(dyn ToSql + Sync); 6] =
            [&ids, &now.0, &kinds, &reserved, &costs, &estimated];
        self.run(sql, &values).await.map(drop)
    }

    async fn put_sessions(&self, fold: &Fold) -> Result<(), Fault> {
        for session in fold.sessions.values() {
            let sql = "INSERT INTO sessions (id, caller, conversation, used_time, node)
                VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (id) DO UPDATE SET caller = excluded.caller, node = excluded.node,
                conversation = excluded.conversation, used_time = excluded.used_time";
            let conversation = session.conversation.as_ref().map(|c| kept(&c.0));
            let node = session.node.as_ref().map(|node| kept(&node.0));
            let (id, caller) = (kept(&session.id), kept(&session.caller.0));
            let values: [&(dyn ToSql + Sync); 5] =
                [&id, &caller, &conversation, &session.used_time.0, &node];
            self.run(sql, &values).await?;
        }
        Ok(())
    }

    /// Adds to the sums.
    pub async fn add(&self, sums: &Sums) -> Result<(), Fault> {
        if *sums == Sums::default() {
            return Ok(());
        }
        let sql = "UPDATE books SET spent = spent + $2::bigint, reserved = reserved + $3::bigint,
            state_1 = state_1 + $4, state_2 = state_2 + $5, state_3 = state_3 + $6,
            state_4 = state_4 + $7, state_5 = state_5 + $8, state_6 = state_6 + $9,
            state_7 = state_7 + $10 WHERE shard = $1";
        let [_, a, b, c, d, e, f, g] = &sums.states;
        let (spent, reserved) = (&sums.spent, &sums.reserved);
        let changed = self
            .run(sql, &[&self.shard, spent, reserved, a, b, c, d, e, f, g])
            .await?;
        match changed {
            1 => Ok(()),
            _ => Err(missing("books")),
        }
    }

    pub async fn append(
        &self,
        fence: Fence,
        events: Vec<Kind>,
        note: Note,
        now: Timestamp,
    ) -> Result<Committed, Fault> {
        let sql = "UPDATE tasks SET last_sequence = last_sequence + $3,
            attempt_cost = coalesce($4, attempt_cost), session_id = coalesce($5, session_id),
            session_offset = coalesce($6, session_offset)
            WHERE id = $1 AND attempt = $2 RETURNING last_sequence, state";
        let id = uuid(fence.task.as_bytes());
        let count = integer(events.len() as u64);
        let cost = note.cost.map(|cost| cost.0);
        let session = note.session.as_ref().map(|session| kept(&session.id));
        let offset = note.session.as_ref().map(|session| session.offset);
        let attempt = i64::from(fence.attempt);
        let found = self
            .rows(sql, &[&id, &attempt, &count, &cost, &session, &offset])
            .await?;
        let found = found.first().ok_or(StoreError::Fenced)?;
        let (last, state): (i64, i32) = (found.try_get(0)?, found.try_get(1)?);
        let bad = |column| Fault::Store(row::damaged(fence.task, column));
        let last = u64::try_from(last - count).map_err(|_| bad("last_sequence"))?;
        // Not asked for above: few tasks are active, and the plan would begin
        // with them instead of with this one.
        let state = State::from_number(state).ok_or_else(|| bad("state"))?;
        if !state.is_active() {
            return Err(StoreError::Fenced.into());
        }
        let entries = number(last, events, now);
        let own: Vec<_> = entries.iter().cloned().map(|e| (fence.task, e)).collect();
        self.put_events(&own).await?;
        Ok(Committed {
            task: fence.task,
            state,
            entries,
        })
    }
}

/// A row that the schema made is not there.
pub(super) fn missing(table: &str) -> Fault {
    Fault::Store(StoreError::Corrupt(format!("{table} has no row")))
}
