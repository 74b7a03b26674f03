//! Scopes, and what each method needs.

use serde::{Deserialize, Serialize};

use crate::pb::Scope;

/// Every scope by the name that files use.
const NAMES: [(&str, Scope); 4] = [
    ("read", Scope::Read),
    ("work", Scope::Work),
    ("operate", Scope::Operate),
    ("author", Scope::Author),
];

/// What a method needs.
#[derive(Debug)]
pub(in crate::rpc) struct Method {
    /// Its path on the wire.
    pub path: &'static str,
    /// One of these is enough.
    pub scopes: &'static [Scope],
    /// Whether a call of it may change anything.
    pub changes: bool,
    /// Whether its tasks have their caller attached, who may say `detach`.
    pub attaches: bool,
}

/// Every method of ours; generated from the descriptor set by the build, which
/// fails for a method without scopes.
const METHODS: &[Method] = include!(concat!(env!("OUT_DIR"), "/scopes.rs"));

/// The method under a path, if it is one of ours.
pub(in crate::rpc) fn method(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

/// The scopes of a caller. In files: names of `read`, `work`, `operate`,
/// `author`. Each includes `read`; none includes another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Scopes(u8);

impl Scopes {
    /// No scope.
    pub const NONE: Self = Self(0);
    /// Every scope.
    pub const ALL: Self = Self(u8::MAX);

    /// Reads names. The error is one sentence.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut scopes = Self::NONE;
        for name in names {
            let (_, scope) = NAMES
                .iter()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| {
                    format!("`{name}` is no scope: say read, work, operate or author")
                })?;
            scopes.0 |= bit(*scope);
        }
        match scopes {
            Self::NONE => Err("at least one scope is needed".to_owned()),
            Self(bits) => Ok(Self(bits | bit(Scope::Read))),
        }
    }

    /// Whether a scope is among them.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & bit(scope) != 0
    }

    /// Whether all of `others` are among them.
    pub(super) fn include(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether one of `needed` is among them.
    pub fn has_any(self, needed: &[Scope]) -> bool {
        needed.iter().any(|scope| self.has(*scope))
    }
}

fn bit(scope: Scope) -> u8 {
    match scope {
        // Nobody has it.
        Scope::Unspecified => 0,
        Scope::Read => 1,
        Scope::Work => 2,
        Scope::Operate => 4,
        Scope::Author => 8,
    }
}

/// The names of scopes, with commas between them.
pub(super) fn names(scopes: &[Scope]) -> String {
    let known = NAMES.iter().filter(|(_, scope)| scopes.contains(scope));
    let names: Vec<_> = known.map(|(name, _)| *name).collect();
    names.join(",")
}

impl TryFrom<Vec<String>> for Scopes {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        Self::parse(names.iter().map(String::as_str))
    }
}

impl From<Scopes> for Vec<String> {
    fn from(scopes: Scopes) -> Self {
        let own = NAMES.iter().filter(|(_, scope)| scopes.has(*scope));
        own.map(|(name, _)| (*name).to_owned()).collect()
    }
}
