//! Conversations: who is next, and what ended tasks have saved.

use rusqlite::params;

use super::write::Transaction;
use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::store::choice::Choice;
use crate::task::{SavedSession, Task};

impl Transaction<'_> {
    /// Whether the task's conversation is another task's now.
    pub fn waits(&self, task: &Task, choice: &Choice<'_>) -> Result<bool, StoreError> {
        let Some(conversation) = &task.conversation else {
            return Ok(false);
        };
        if choice.has_taken(&task.caller, conversation) {
            return Ok(true);
        }
        // 2 and 3 are RUNNING and CANCELLING.
        Ok(self
            .conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_conversation
                 WHERE caller = ?1 AND conversation = ?2 AND conversation IS NOT NULL
                 AND end_time IS NULL AND (id < ?3 OR (id > ?3 AND state IN (2, 3))))",
            )?
            .query_row(
                params![task.caller.0, conversation.0, task.id.as_bytes()],
                |row| row.get(0),
            )?)
    }

    pub fn save_session(&self, session: &SavedSession) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO sessions (id, caller, conversation, used_time, node) \
                 VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![
                session.id,
                session.caller.0,
                session.conversation.as_ref().map(|c| &c.0),
                session.used_time.0,
                session.node.as_ref().map(|node| &node.0)
            ])?;
        Ok(())
    }

    pub fn forget_session(&self, id: &str) -> Result<(), StoreError> {
        self.conn
            .prepare_cached("DELETE FROM sessions WHERE id = ?")?
            .execute([id])?;
        Ok(())
    }

    pub fn expire_sessions(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let mut unused = self.conn.prepare_cached(
            "SELECT id FROM sessions INDEXED BY sessions_used
             WHERE used_time < ? AND NOT EXISTS (
                SELECT 1 FROM tasks INDEXED BY tasks_conversation
                WHERE tasks.caller = sessions.caller
                AND tasks.conversation = ifnull(sessions.conversation, 'session:' || sessions.id)
                AND tasks.conversation IS NOT NULL AND end_time IS NULL)
             ORDER BY used_time, id LIMIT ?",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = unused.query_map([before.0, limit], |row| row.get(0))?;
        let ids = rows.collect::<Result<Vec<String>, _>>()?;
        for id in &ids {
            self.forget_session(id)?;
        }
        Ok(ids)
    }
}
