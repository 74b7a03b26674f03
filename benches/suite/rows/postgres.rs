//! The store on PostgreSQL, with one server and with several.

mod claims;
mod load;
mod submits;
mod watch;

use super::Place;
use crate::database::Database;
use crate::measure::{Failure, Row};

const BARE: &str = "bare on PostgreSQL";
/// The way whose figures say what one database does.
pub const OURS: &str = "our store on PostgreSQL";
const SQLITE: &str = "our store on SQLite";

/// Figures of [`queue`].
pub const SUBMITS: &str = "submits/s, 64 callers";
pub const CLAIMS: &str = "claims/s, 3 nodes of 8 slots";
pub const APPENDS: &str = "appends/s, 64 tasks";
pub const APPEND: &str = "processor ms an append";

/// Ways of [`load`]: a server with nothing to do, a task's whole life, wakes alone.
pub const IDLE: &str = "an idle server";
pub const LIFE: &str = "a task's life";
pub const WAKES: &str = "wakes alone, 50 listeners";

/// Rounds of each part: there are many, and a run must end.
const ROUNDS_MAX: usize = 3;

/// What is made and taken.
pub async fn queue(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "postgres",
        "The queue on PostgreSQL",
        "PostgreSQL on the disk that is measured, as it is when nobody has configured it, its \
         commits durable (`synchronous_commit = on`), against SQLite on the same disk. Bare: the \
         same statements as our store's, read from the database's own log and sent by the driver \
         alone, in as many round trips, on a connection for each caller, where our store has 16. \
         Submit is the whole way over gRPC, to one server whose slot is busy. A claim is of 8 \
         tasks in one transaction, by nodes that go on until nothing is left; an append is one \
         piece of an answer, of one of 64 tasks under way. Database, servers and callers share \
         this machine.",
    );
    let database = Database::start(&place.dir).await?;
    submits::measure(&mut row, &place, &database).await?;
    claims::measure(&mut row, &place, &database).await?;
    Ok(row)
}

/// What is said on one server and heard on another.
pub async fn watch(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "postgres-watch",
        "From the agent's line to a watcher on another server",
        "Two servers on one PostgreSQL. An agent in the process of the first says a piece every \
         5 ms, with the time; a watcher of the first and one of the second compare it with theirs \
         when the event arrives, which is after its commit and, for the second, after a wake and \
         a read. Beside them the same of one server on SQLite.",
    );
    let database = Database::start(&place.dir).await?;
    watch::measure(&mut row, &place, &database).await?;
    Ok(row)
}

/// What servers ask of the database.
pub async fn load(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "postgres-load",
        "What servers ask of PostgreSQL",
        "Three servers of 100 idle slots each: what the database does meanwhile, as it counts \
         itself, a read without a transaction being one, and the processor time of its \
         processes, its own housekeeping included. An idle slot asks nothing, a server does: \
         what 1,000 idle slots ask goes by how many a server has. Then tasks whose agent answers \
         at once, submitted by 64 callers to two servers of 32 slots: what a task asks in its \
         whole life. Last, wakes alone: 4 connections tell and 50 listen.",
    );
    let database = Database::start(&place.dir).await?;
    load::measure(&mut row, &place, &database).await?;
    Ok(row)
}
