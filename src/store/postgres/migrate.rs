//! From a database to one of today's schema, whoever else is about it.

use std::time::Duration;

use deadpool_postgres::Object;
use tokio::time::timeout;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::fault;
use crate::store::OpenError;

/// One script per schema version, from 1. Only ever appended to. Older programs
/// go on beside each: see docs/postgresql.md, "Rolling upgrade". One that they
/// cannot live with sets `claudepool_schema.compatible_from` to its own number.
const MIGRATIONS: [&str; 2] = [
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_level.sql"),
];

/// Longest time of them all: others may be at it, and a table may be large.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Longest wait for a table that others use: whoever comes after us waits for
/// it, too.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// Wait before the next try at such a table.
const PAUSE: Duration = Duration::from_millis(500);

/// The lock that whoever migrates holds: "clpo", as in the file of SQLite.
const LOCK: i64 = 0x636c_706f;

/// Brings the schema to today's, a transaction per version.
pub(super) async fn migrate(mut client: Object, place: &str) -> Result<(), OpenError> {
    let work = async {
        loop {
            match step(&mut client, place).await? {
                Step::Further => {}
                Step::Busy => tokio::time::sleep(PAUSE).await,
                Step::Done => return Ok(()),
            }
        }
    };
    let late = |_| {
        OpenError(format!(
            "{place} does not answer: is somebody else migrating it?"
        ))
    };
    let done = timeout(TIME_MAX, work).await.map_err(late)?;
    // What was set for it is not for calls.
    drop(Object::take(client));
    done
}

/// What a step came to.
enum Step {
    /// The schema is a version further.
    Further,
    /// Others use a table that is to be changed.
    Busy,
    /// There is nothing to do.
    Done,
}

/// Brings the schema a version further.
async fn step(client: &mut Object, place: &str) -> Result<Step, OpenError> {
    let failed = |error: Error| refused(place, &error);
    let tx = client.transaction().await.map_err(failed)?;
    tx.batch_execute(&format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0;
         SELECT pg_advisory_xact_lock({LOCK}); SET LOCAL lock_timeout = {}",
        LOCK_WAIT.as_millis()
    ))
    .await
    .map_err(failed)?;
    let sql = "SELECT to_regclass('claudepool_schema') IS NOT NULL,
               to_regclass('tasks') IS NOT NULL";
    let found = tx.query_one(sql, &[]).await.map_err(failed)?;
    let (ours, tasks): (bool, bool) = (found.get(0), found.get(1));
    if !ours && tasks {
        return Err(OpenError(format!(
            "{place} is the database of another program: use another one"
        )));
    }
    if !ours {
        let sql = "CREATE TABLE claudepool_schema (version integer NOT NULL);
                   INSERT INTO claudepool_schema (version) VALUES (0)";
        tx.batch_execute(sql).await.map_err(failed)?;
    }
    // The first schema had no such column.
    let sql = "SELECT version, (to_jsonb(s) ->> 'compatible_from')::integer
               FROM claudepool_schema s";
    let found = tx.query_one(sql, &[]).await.map_err(failed)?;
    let (version, from): (i32, Option<i32>) = (found.get(0), found.get(1));
    let known = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    if version > known {
        return match from {
            Some(from) if from <= known => Ok(Step::Done),
            _ => Err(OpenError(format!(
                "{place} was written by a newer claudepool (schema {version}, this one knows \
                 {known}): use that one, or another database"
            ))),
        };
    }
    let script = usize::try_from(version).ok().map(|at| MIGRATIONS.get(at));
    let Some(script) = script.unwrap_or_default() else {
        return Ok(Step::Done);
    };
    match tx.batch_execute(script).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            return Ok(Step::Busy);
        }
        done => done.map_err(failed)?,
    }
    let next = version + 1;
    tx.execute("UPDATE claudepool_schema SET version = $1", &[&next])
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(Step::Further)
}

/// One sentence with what the engine says and the way out.
pub(super) fn refused(place: &str, error: &Error) -> OpenError {
    let way = match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            ": let the user own the database"
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => ": create it first",
        Some(_) => "",
        None => ": is it there, and is it the right address?",
    };
    OpenError(format!(
        "{place} cannot be used ({}){way}",
        fault::said(error)
    ))
}
