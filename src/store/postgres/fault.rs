//! What PostgreSQL says, as what a caller can do about it.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// Why a transaction did not do as asked.
#[derive(Debug)]
pub(super) enum Fault {
    /// The engine or the way to it.
    Engine(Error),
    /// What a caller has to know.
    Store(StoreError),
    /// Somebody else was in the way: the same again, from the beginning.
    Again,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The index that lets one task of a conversation be active.
const CONVERSATION: &str = "tasks_conversation_active";

impl Fault {
    /// Whether nothing was done and the same may work now.
    pub fn is_passing(&self) -> bool {
        let Self::Engine(error) = self else {
            return matches!(self, Self::Again);
        };
        let Some(said) = error.as_db_error() else {
            return false;
        };
        // The third: what went wrong was another statement's answer, which comes
        // in its own time; done again it is told by the one whose it is.
        let passing = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::IN_FAILED_SQL_TRANSACTION,
        ];
        passing.contains(said.code()) || said.constraint() == Some(CONVERSATION)
    }

    /// Whether the connection is gone.
    pub fn is_cut(&self) -> bool {
        let Self::Engine(error) = self else {
            return false;
        };
        match error.as_db_error() {
            Some(said) => {
                let class = said.code().code();
                class.starts_with("08") || class.starts_with("57P")
            }
            None => !is_value(error),
        }
    }
}

/// Whether a value is not of the type that its column has.
fn is_value(error: &Error) -> bool {
    let said = error.to_string();
    ["error deserializing", "error serializing", "invalid column"]
        .iter()
        .any(|begin| said.starts_with(begin))
}

/// What it says. Without the detail, which may hold what a caller said.
pub(super) fn said(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {} ({})", db.severity(), db.message(), db.code().code()),
        None => {
            let mut said = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                said += &format!(": {cause}");
                source = cause.source();
            }
            said
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        let error = match fault {
            Fault::Engine(error) => error,
            Fault::Store(error) => return error,
            Fault::Again => return Self::Unavailable("too many were in the way".to_owned()),
        };
        let Some(db) = error.as_db_error() else {
            let said = said(&error);
            return if is_value(&error) {
                Self::Corrupt(said)
            } else {
                Self::Unavailable(said)
            };
        };
        let made =
            db.code() == &SqlState::UNIQUE_VIOLATION && db.constraint() == Some("tasks_pkey");
        let code = db.code().code();
        match code.get(..2) {
            _ if made => Self::Conflict,
            // A page or an index that is not as it should be.
            Some("XX") if code != "XX000" => Self::Damaged(said(&error)),
            // A value or a row that is not as we left it.
            Some("21" | "22" | "23") => Self::Corrupt(said(&error)),
            // It ends, is full, may not be written to, does not know us any
            // more...: it may work again.
            _ => Self::Unavailable(said(&error)),
        }
    }
}

/// After `close`.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it was closed".to_owned())
}

/// When an answer did not come in time.
pub(super) fn silent() -> StoreError {
    StoreError::Unavailable("PostgreSQL does not answer in time".to_owned())
}
