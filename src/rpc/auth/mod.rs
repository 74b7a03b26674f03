//! Who calls, and whether the call may be made.
//!
//! A caller is a name with scopes: by a bearer token from a file, or by the
//! name in a client's certificate. Which scopes a method needs is in the
//! descriptor set; a method that is not in it is not reached. Without tokens
//! and certificates everybody is nobody in particular, with every scope.

mod gate;
mod layer;
mod scope;
mod tokens;

use crate::id::CallerId;

pub use gate::Options;
pub use scope::Scopes;
pub use tokens::{Tokens, hash};

pub(super) use gate::Gate;
pub(super) use layer::AuthService;
pub(super) use scope::method;

/// Longest name of a caller, in bytes. It stands in every task's row.
const NAME_MAX: usize = 128;

/// Who makes a call. In the extensions of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name; empty without authentication.
    pub id: CallerId,
    /// What it may do.
    pub scopes: Scopes,
}

impl Caller {
    /// Everybody, where nobody is told apart.
    fn anybody() -> Self {
        Self {
            id: CallerId::default(),
            scopes: Scopes::ALL,
        }
    }
}

/// Whether a text can be a caller's name: it stands in logs and lists.
fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
