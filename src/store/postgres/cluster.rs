//! The nodes: who lives, what holds for all of them, what they ask each other.

use std::collections::{BTreeSet, HashMap};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use super::Postgres;
use super::call::{Link, Tx};
use super::columns::{self, SELECT};
use super::fault::Fault;
use super::text::{kept, said};
use super::write::CLOCK;
use crate::id::{CallerId, NodeId};
use crate::store::StoreError;
use crate::store::cluster::{Cluster, Control, Node, Question, Told};
use crate::store::row::integer;
use crate::task::{Level, Task};

/// A node as this handle has joined: whoever joins under the same name later is
/// another one.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    pub node: NodeId,
    pub incarnation: Uuid,
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

fn list(labels: &BTreeSet<String>) -> String {
    serde_json::Value::from_iter(labels.iter().cloned()).to_string()
}

impl Tx {
    /// Holds the node's lease until the end: nobody buries it or joins under its name
    /// meanwhile, and it is renewed all the same: `FOR SHARE` would have a renewal wait
    /// until nothing at all of a busy node is under way.
    pub async fn hold_lease(&self, joined: &Joined) -> Result<(), Fault> {
        let sql = format!(
            "SELECT 1 FROM nodes WHERE id = $1 AND incarnation = $2 AND lease_end > {CLOCK}
             FOR KEY SHARE"
        );
        let id = kept(&joined.node.0);
        let rows = self.rows(&sql, &[&id, &joined.incarnation]).await?;
        match rows.is_empty() {
            true => Err(StoreError::Fenced.into()),
            false => Ok(()),
        }
    }

    async fn join(
        &self,
        joined: Joined,
        labels: String,
        span: Duration,
    ) -> Result<Option<Duration>, Fault> {
        let id = kept(&joined.node.0);
        // What the last of this name has under way comes first.
        let sql = "SELECT 1 FROM nodes WHERE id = $1 FOR UPDATE";
        self.rows(sql, &[&id]).await?;
        let sql = format!(
            "INSERT INTO nodes AS n (id, incarnation, lease_end, labels, report, update_time)
             VALUES ($1, $2, {CLOCK} + $3, $4, '', {CLOCK})
             ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation,
                lease_end = excluded.lease_end, labels = excluded.labels,
                report = excluded.report, update_time = excluded.update_time
                WHERE n.lease_end <= {CLOCK}"
        );
        let made = self
            .run(&sql, &[&id, &joined.incarnation, &micros(span), &labels])
            .await?;
        if made > 0 {
            return Ok(None);
        }
        let sql = format!("SELECT lease_end - {CLOCK} FROM nodes WHERE id = $1");
        let rows = self.rows(&sql, &[&id]).await?;
        let left: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        // It may have passed since.
        Ok(Some(Duration::from_micros(
            u64::try_from(left).unwrap_or(0).max(1),
        )))
    }

    async fn renew(
        &self,
        joined: Joined,
        span: Duration,
        report: Option<Bytes>,
    ) -> Result<(), Fault> {
        let sql = format!(
            "UPDATE nodes SET lease_end = {CLOCK} + $3, update_time = {CLOCK},
                report = coalesce($4, report)
             WHERE id = $1 AND incarnation = $2 AND lease_end > {CLOCK}"
        );
        let report = report.as_deref();
        let id = kept(&joined.node.0);
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&id, &joined.incarnation, &micros(span), &report];
        match self.run(&sql, &values).await? {
            0 => Err(StoreError::Fenced.into()),
            _ => Ok(()),
        }
    }

    async fn leave(&self, joined: Joined) -> Result<(), Fault> {
        let sql = "DELETE FROM nodes WHERE id = $1 AND incarnation = $2";
        let id = kept(&joined.node.0);
        self.run(sql, &[&id, &joined.incarnation]).await.map(drop)
    }

    async fn bury(&self) -> Result<Vec<NodeId>, Fault> {
        let sql = format!(
            "DELETE FROM nodes WHERE id IN (SELECT id FROM nodes WHERE lease_end <= {CLOCK}
                ORDER BY id FOR UPDATE SKIP LOCKED) RETURNING id"
        );
        let rows = self.rows(&sql, &[]).await?;
        let ids = rows.iter().map(|row| Ok(NodeId(said(row.try_get(0)?))));
        ids.collect()
    }

    async fn set_control(&self, control: Control) -> Result<u64, Fault> {
        let next = control.revision + 1;
        let sql = "UPDATE shared SET revision = $1, paused = $2, hold = $3 WHERE revision = $4";
        let paused = control.paused.as_deref().map(kept);
        let (next_, revision) = (integer(next), integer(control.revision));
        let hold = &control.hold[..];
        match self.run(sql, &[&next_, &paused, &hold, &revision]).await? {
            0 => Err(StoreError::Conflict.into()),
            _ => Ok(next),
        }
    }

    async fn ask(
        &self,
        id: Uuid,
        node: NodeId,
        question: Bytes,
        span: Duration,
    ) -> Result<(), Fault> {
        let sql = format!("DELETE FROM questions WHERE expire_time <= {CLOCK}");
        self.run(&sql, &[]).await?;
        let sql = format!(
            "INSERT INTO questions (id, node, question, taken, expire_time)
             VALUES ($1, $2, $3, false, {CLOCK} + $4)"
        );
        let question = &question[..];
        self.run(&sql, &[&id, &kept(&node.0), &question, &micros(span)])
            .await
            .map(drop)
    }

    async fn asked(&self, node: NodeId) -> Result<Vec<Question>, Fault> {
        let sql = format!(
            "UPDATE questions SET taken = true
             WHERE node = $1 AND NOT taken AND expire_time > {CLOCK} RETURNING id, question"
        );
        let rows = self.rows(&sql, &[&kept(&node.0)]).await?;
        let question = |row: &tokio_postgres::Row| {
            Ok(Question {
                id: row.try_get(0)?,
                bytes: row.try_get::<_, Vec<u8>>(1)?.into(),
            })
        };
        rows.iter().map(question).collect()
    }

    async fn answer(&self, question: Uuid, answer: Bytes) -> Result<(), Fault> {
        let answer = &answer[..];
        let sql = "UPDATE questions SET answer = $2 WHERE id = $1";
        self.run(sql, &[&question, &answer]).await.map(drop)
    }

    async fn answered(&self, question: Uuid) -> Result<Option<Bytes>, Fault> {
        let sql = "DELETE FROM questions WHERE id = $1 AND answer IS NOT NULL RETURNING answer";
        let rows = self.rows(sql, &[&question]).await?;
        let answer = rows.first().map(|row| row.try_get::<_, Vec<u8>>(0));
        Ok(answer.transpose()?.map(Bytes::from))
    }
}

async fn orphans(link: &Link, level: Level, limit: usize) -> Result<Vec<Task>, Fault> {
    let sql = format!(
        "{} WHERE t.state IN (2, 3) AND t.rank <> 255 AND (t.level <= $2 OR t.parent_id IS NULL)
            AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = t.lease_node)
         ORDER BY t.id LIMIT $1",
        *SELECT
    );
    let rows = link
        .rows(&sql, &[&integer(limit as u64), &i32::from(level.0)])
        .await?;
    rows.iter().map(columns::task).collect()
}

async fn nodes(link: &Link) -> Result<Vec<Node>, Fault> {
    let sql = format!("SELECT id, labels, report FROM nodes WHERE lease_end > {CLOCK} ORDER BY id");
    let rows = link.rows(&sql, &[]).await?;
    let node = |row: &tokio_postgres::Row| {
        let labels: String = row.try_get(1)?;
        Ok(Node {
            id: NodeId(said(row.try_get(0)?)),
            // What cannot be understood is no label of ours.
            labels: serde_json::from_str(&labels).unwrap_or_default(),
            report: row.try_get::<_, Vec<u8>>(2)?.into(),
        })
    };
    rows.iter().map(node).collect()
}

async fn control(link: &Link) -> Result<Control, Fault> {
    // By their keys: without statistics each table is guessed to have thousands
    // of rows, and all of them together billions.
    let sql = "SELECT s.revision, s.paused, s.hold, c.revision, b.budget_limit IS NOT NULL
               FROM shared s, context_revision c, budget b
               WHERE s.only_row = 1 AND c.only_row = 1 AND b.only_row = 1";
    let rows = link.rows(sql, &[]).await?;
    let row = rows
        .first()
        .ok_or_else(|| super::write::missing("shared"))?;
    let number = |at| -> Result<u64, Fault> {
        let stored: i64 = row.try_get(at)?;
        Ok(u64::try_from(stored).unwrap_or_default())
    };
    Ok(Control {
        revision: number(0)?,
        paused: row.try_get::<_, Option<String>>(1)?.map(said),
        hold: row.try_get::<_, Vec<u8>>(2)?.into(),
        context_revision: number(3)?,
        has_budget: row.try_get(4)?,
    })
}

async fn queued(link: &Link) -> Result<HashMap<CallerId, u64>, Fault> {
    let sql = "SELECT caller, count(*) FROM tasks WHERE state = 1 AND rank <> 255 GROUP BY caller";
    let rows = link.rows(sql, &[]).await?;
    let count = |row: &tokio_postgres::Row| {
        let count: i64 = row.try_get(1)?;
        let caller = CallerId(said(row.try_get(0)?));
        Ok((caller, u64::try_from(count).unwrap_or_default()))
    };
    rows.iter().map(count).collect()
}

impl Postgres {
    fn joined_lock(&self) -> MutexGuard<'_, Option<Joined>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node that this handle is, if it has joined.
    pub(super) fn joined(&self) -> Option<Joined> {
        self.joined_lock().clone()
    }

    fn joined_or_fenced(&self) -> Result<Joined, StoreError> {
        self.joined().ok_or(StoreError::Fenced)
    }

    fn tell(&self, tell: impl FnOnce(&mut Told)) {
        self.engine.outbox.add(tell);
    }
}

#[async_trait]
impl Cluster for Postgres {
    async fn join(
        &self,
        node: &NodeId,
        labels: &BTreeSet<String>,
        span: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let joined = Joined {
            node: node.clone(),
            incarnation: Uuid::new_v4(),
        };
        let (asks, labels) = (joined.clone(), list(labels));
        let left = self
            .engine
            .write(move |tx| Box::pin(tx.join(asks.clone(), labels.clone(), span)))
            .await?;
        if left.is_none() {
            *self.joined_lock() = Some(joined);
            self.tell(|told| told.nodes = true);
        }
        Ok(left)
    }

    async fn renew(&self, span: Duration, report: Option<Bytes>) -> Result<(), StoreError> {
        let joined = self.joined_or_fenced()?;
        let tells = report.is_some();
        self.engine
            .write(move |tx| Box::pin(tx.renew(joined.clone(), span, report.clone())))
            .await?;
        if tells {
            self.tell(|told| told.nodes = true);
        }
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let Some(joined) = self.joined() else {
            return Ok(());
        };
        self.engine
            .write(move |tx| Box::pin(tx.leave(joined.clone())))
            .await?;
        *self.joined_lock() = None;
        self.tell(|told| told.nodes = true);
        Ok(())
    }

    async fn bury(&self) -> Result<Vec<NodeId>, StoreError> {
        let gone = self.engine.write(|tx| Box::pin(tx.bury())).await?;
        if !gone.is_empty() {
            self.tell(|told| told.nodes = true);
        }
        Ok(gone)
    }

    async fn orphans(&self, level: Level, limit: usize) -> Result<Vec<Task>, StoreError> {
        let engine = &self.engine;
        engine
            .read(move |link| Box::pin(orphans(link, level, limit)))
            .await
    }

    async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        self.engine.read(|link| Box::pin(nodes(link))).await
    }

    async fn control(&self) -> Result<Control, StoreError> {
        self.engine.read(|link| Box::pin(control(link))).await
    }

    async fn set_control(&self, control: Control) -> Result<u64, StoreError> {
        let revision = self
            .engine
            .write(move |tx| Box::pin(tx.set_control(control.clone())))
            .await?;
        self.tell(|told| told.control = true);
        Ok(revision)
    }

    async fn queued(&self) -> Result<HashMap<CallerId, u64>, StoreError> {
        self.engine.read(|link| Box::pin(queued(link))).await
    }

    async fn ask(
        &self,
        node: &NodeId,
        question: Bytes,
        span: Duration,
    ) -> Result<Uuid, StoreError> {
        let (id, node) = (Uuid::now_v7(), node.clone());
        self.engine
            .write(move |tx| Box::pin(tx.ask(id, node.clone(), question.clone(), span)))
            .await?;
        self.tell(|told| told.questions = true);
        Ok(id)
    }

    async fn asked(&self) -> Result<Vec<Question>, StoreError> {
        let node = self.joined_or_fenced()?.node;
        self.engine
            .write(move |tx| Box::pin(tx.asked(node.clone())))
            .await
    }

    async fn answer(&self, question: Uuid, answer: Bytes) -> Result<(), StoreError> {
        self.engine
            .write(move |tx| Box::pin(tx.answer(question, answer.clone())))
            .await?;
        self.tell(|told| told.questions = true);
        Ok(())
    }

    async fn answered(&self, question: Uuid) -> Result<Option<Bytes>, StoreError> {
        self.engine
            .write(move |tx| Box::pin(tx.answered(question)))
            .await
    }

    async fn told(&self) -> Told {
        self.heard.take().await
    }
}
