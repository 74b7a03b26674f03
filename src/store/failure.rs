//! Why a store does not do as asked.

use super::Request;

/// Why a store did not do as asked. Nothing was changed; only of what was not
/// answered ([`StoreError::is_outage`]) that is not certain.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The precondition does not hold: somebody else was first.
    #[error("another change came first")]
    Conflict,
    /// The caller's request is there already.
    #[error("the request was made before")]
    RequestExists(Box<Request>),
    /// The attempt may not write any more: it was ended or taken by another.
    #[error("the attempt is over")]
    Fenced,
    /// The disk is full, the file is gone, the database does not answer... It
    /// may work again later. Holds what the engine said, for the log.
    #[error("the store does not answer")]
    Unavailable(String),
    /// The engine finds its file damaged: nothing is trusted to it until it is
    /// whole again. Holds what the engine said, for the log.
    #[error("the store's file is damaged")]
    Damaged(String),
    /// What is stored of one thing cannot be understood; the others can be used.
    /// Holds what and why, for the log.
    #[error("the store is damaged")]
    Corrupt(String),
}

impl StoreError {
    /// In one word what is wrong with the store; `None`: nothing.
    pub fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Conflict | Self::RequestExists(_) | Self::Fenced => None,
            Self::Unavailable(_) => Some("unavailable"),
            Self::Damaged(_) => Some("damaged"),
            Self::Corrupt(_) => Some("corrupt"),
        }
    }

    /// Whether the store as a whole failed, rather than this call. What the
    /// call was to do may have been done all the same.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Damaged(_) => true,
            Self::Conflict | Self::RequestExists(_) | Self::Fenced | Self::Corrupt(_) => false,
        }
    }
}

/// Why a store could not be opened: one sentence with the way out.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);
