//! What SQLite says, as what a caller can do about it.

use rusqlite::{Error, ErrorCode};

use crate::store::StoreError;

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        let said = error.to_string();
        match &error {
            Error::SqliteFailure(failure, _) => match failure.code {
                // A page that is no page, or not the one it should be.
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged(said),
                // A table, column or row that is not as we left it.
                ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::Unknown => {
                    Self::Corrupt(said)
                }
                // The disk is full, cannot be read or written, is read-only, somebody
                // else has the database...: it may work again.
                _ => Self::Unavailable(said),
            },
            // A value that is not of the type its column has.
            _ => Self::Corrupt(said),
        }
    }
}

/// After `close`, or when the writer is gone.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it was closed".to_owned())
}
