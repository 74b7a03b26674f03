//! Skills and workflows as a store keeps them.

use bytes::Bytes;

use crate::clock::Timestamp;

/// What an entry of the catalog is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CatalogKind {
    /// A skill.
    Skill,
    /// A workflow.
    Workflow,
}

impl CatalogKind {
    /// The number that stores keep.
    pub fn number(self) -> u8 {
        match self {
            Self::Skill => 1,
            Self::Workflow => 2,
        }
    }
}

/// A stored skill or workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Its name, unique among those of its kind.
    pub name: String,
    /// The encoded message.
    pub bytes: Bytes,
    /// When it was stored.
    pub update_time: Timestamp,
}
