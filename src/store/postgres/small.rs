//! What is small: sessions, the shared context, the catalog.

use tokio_postgres::Row;

use super::call::{Link, Tx};
use super::fault::Fault;
use super::text::{kept, said};
use crate::clock::Timestamp;
use crate::id::{CallerId, ConversationId, NodeId};
use crate::store::row::integer;
use crate::store::{CatalogEntry, CatalogKind, SessionRef, StoreError};
use crate::task::SavedSession;

pub(super) async fn session(
    link: &Link,
    caller: CallerId,
    which: SessionRef,
) -> Result<Option<SavedSession>, Fault> {
    let (condition, value) = match &which {
        SessionRef::Id(id) => ("id = $2", id),
        SessionRef::Conversation(conversation) => (
            "conversation = $2 AND conversation IS NOT NULL",
            &conversation.0,
        ),
    };
    let sql = format!(
        "SELECT id, conversation, used_time, node FROM sessions WHERE caller = $1 AND {condition}
         ORDER BY used_time DESC, id DESC LIMIT 1"
    );
    let rows = link.rows(&sql, &[&kept(&caller.0), &kept(value)]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let conversation: Option<String> = row.try_get(1)?;
    Ok(Some(SavedSession {
        id: said(row.try_get(0)?),
        caller,
        conversation: conversation.map(|text| ConversationId(said(text))),
        used_time: Timestamp(row.try_get(2)?),
        node: row
            .try_get::<_, Option<String>>(3)?
            .map(|node| NodeId(said(node))),
    }))
}

fn entry_of(row: &Row) -> Result<CatalogEntry, Fault> {
    Ok(CatalogEntry {
        name: said(row.try_get(0)?),
        bytes: row.try_get::<_, Vec<u8>>(1)?.into(),
        update_time: Timestamp(row.try_get(2)?),
    })
}

pub(super) async fn entry(
    link: &Link,
    kind: CatalogKind,
    name: String,
) -> Result<Option<CatalogEntry>, Fault> {
    let sql = "SELECT name, bytes, update_time FROM catalog WHERE kind = $1 AND name = $2";
    let kind = i32::from(kind.number());
    let rows = link.rows(sql, &[&kind, &kept(&name)]).await?;
    rows.first().map(entry_of).transpose()
}

/// Entries that are fetched at a time.
const ENTRIES: i64 = 64;

pub(super) async fn page(
    link: &Link,
    kind: CatalogKind,
    after: String,
    bytes_max: usize,
) -> Result<Vec<CatalogEntry>, Fault> {
    let sql = "SELECT name, bytes, update_time FROM catalog WHERE kind = $1 AND name > $2
               ORDER BY name LIMIT $3";
    let kind = i32::from(kind.number());
    let (mut entries, mut bytes) = (Vec::<CatalogEntry>::new(), 0);
    loop {
        let after = entries.last().map_or(&after, |entry| &entry.name);
        let rows = link.rows(sql, &[&kind, &kept(after), &ENTRIES]).await?;
        for row in &rows {
            let entry = entry_of(row)?;
            bytes += entry.bytes.len();
            if bytes > bytes_max && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry);
        }
        if (rows.len() as i64) < ENTRIES {
            return Ok(entries);
        }
    }
}

impl Tx {
    pub async fn put_catalog(
        &self,
        kind: CatalogKind,
        entry: CatalogEntry,
        most: usize,
    ) -> Result<bool, Fault> {
        let kind = i32::from(kind.number());
        let (name, bytes, time) = (kept(&entry.name), &entry.bytes[..], entry.update_time.0);
        let sql = "UPDATE catalog SET bytes = $3, update_time = $4 WHERE kind = $1 AND name = $2";
        if self.run(sql, &[&kind, &name, &bytes, &time]).await? > 0 {
            return Ok(true);
        }
        // One after the other, so that no two count the same ones.
        let sql = "SELECT 1 FROM catalog_size FOR UPDATE";
        self.rows(sql, &[]).await?;
        let sql = "INSERT INTO catalog (kind, name, bytes, update_time)
            SELECT $1::integer, $2::text, $3::bytea, $4::bigint
            WHERE (SELECT count(*) FROM catalog WHERE kind = $1) < $5
            ON CONFLICT (kind, name) DO UPDATE
            SET bytes = excluded.bytes, update_time = excluded.update_time";
        let most = integer(most as u64);
        let made = self.run(sql, &[&kind, &name, &bytes, &time, &most]).await?;
        Ok(made > 0)
    }

    pub async fn delete_catalog(&self, kind: CatalogKind, name: String) -> Result<bool, Fault> {
        let kind = i32::from(kind.number());
        let sql = "DELETE FROM catalog WHERE kind = $1 AND name = $2";
        Ok(self.run(sql, &[&kind, &kept(&name)]).await? > 0)
    }

    pub async fn set_context(
        &self,
        revision: u64,
        key: String,
        value: Option<String>,
        now: Timestamp,
    ) -> Result<u64, Fault> {
        let next = revision + 1;
        let sql = "UPDATE context_revision SET revision = $1 WHERE revision = $2";
        if self.run(sql, &[&integer(next), &integer(revision)]).await? == 0 {
            return Err(StoreError::Conflict.into());
        }
        let key = kept(&key);
        match &value {
            Some(value) => {
                let sql = "INSERT INTO context (key, value, update_time) VALUES ($1, $2, $3)
                           ON CONFLICT (key) DO UPDATE SET value = excluded.value, update_time = excluded.update_time";
                self.run(sql, &[&key, &kept(value), &now.0]).await?
            }
            None => {
                self.run("DELETE FROM context WHERE key = $1", &[&key])
                    .await?
            }
        };
        Ok(next)
    }

    pub async fn forget_session(&self, id: String) -> Result<(), Fault> {
        let sql = "DELETE FROM sessions WHERE id = $1";
        self.run(sql, &[&kept(&id)]).await.map(drop)
    }

    pub async fn expire_sessions(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<String>, Fault> {
        let sql = "SELECT s.id FROM sessions s WHERE s.used_time < $1 AND NOT EXISTS (
                SELECT 1 FROM tasks t WHERE t.caller = s.caller
                AND t.conversation = coalesce(s.conversation, 'session:' || s.id)
                AND t.conversation IS NOT NULL AND t.end_time IS NULL)
            ORDER BY s.used_time, s.id LIMIT $2 FOR UPDATE OF s SKIP LOCKED";
        let rows = self.rows(sql, &[&before.0, &integer(limit as u64)]).await?;
        let ids = rows.iter().map(|row| row.try_get(0));
        let ids = ids.collect::<Result<Vec<String>, _>>()?;
        self.run("DELETE FROM sessions WHERE id = ANY($1)", &[&ids])
            .await?;
        Ok(ids.into_iter().map(said).collect())
    }
}
