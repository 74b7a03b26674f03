//! Identities: newtypes, parsed once at the edge.

use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID")]
pub struct NotAnId;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Before every other in order.
            pub const MIN: Self = Self(Uuid::nil());
            /// After every other in order.
            pub const MAX: Self = Self(Uuid::max());

            /// A new one, later in order than all before it (UUIDv7).
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Its 16 bytes, in order of time.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// From its 16 bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            /// Only the hyphenated form of 36 characters; case is folded.
            fn from_str(s: &str) -> Result<Self, NotAnId> {
                if s.len() != 36 {
                    return Err(NotAnId);
                }
                Uuid::try_parse(s).map(Self).map_err(|_| NotAnId)
            }
        }
    };
}

uuid_id!(
    /// A task.
    TaskId
);
uuid_id!(
    /// The tasks of one fan-out.
    GroupId
);
uuid_id!(
    /// A caller's name for one call that makes work, so that it can be repeated.
    RequestId
);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(s: &str) -> Self {
                Self(s.to_owned())
            }
        }
    };
}

text_id!(
    /// A slot, unique on its node: `slot-0`.
    SlotId
);
text_id!(
    /// One running server.
    NodeId
);
text_id!(
    /// A conversation that several tasks of one caller go on with, one at a
    /// time: under a key of the caller's own, or by its session.
    ConversationId
);
text_id!(
    /// Who calls. Empty: nobody in particular, before authentication exists.
    CallerId
);

impl ConversationId {
    /// The conversation under a key.
    pub fn of_key(key: &str) -> Self {
        Self(format!("key:{key}"))
    }

    /// The conversation of a session that has no key.
    pub fn of_session(id: &str) -> Self {
        Self(format!("session:{id}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = TaskId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for bad in [
            "",
            "x",
            "6ba7b8109dad11d180b400c04fd430c8",
            "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}",
        ] {
            assert_eq!(bad.parse::<TaskId>(), Err(NotAnId), "{bad}");
        }
    }

    #[test]
    fn ids_are_in_order_of_their_making() {
        let ids: Vec<_> = (0..1000).map(|_| TaskId::new()).collect();
        assert!(ids.is_sorted());
    }
}
