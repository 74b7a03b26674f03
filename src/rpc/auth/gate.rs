//! The decision: who calls, and may it.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::watch;

use super::scope::{self, method};
use super::tokens::{Hash, digest};
use super::{Caller, Scopes, Tokens, is_name};
use crate::error::Error;
use crate::id::CallerId;
use crate::rpc::accept::Peer;
use crate::rpc::fresh::{self, Fresh};

/// Answered to everybody: probes have no credentials.
const OPEN: [&str; 1] = ["/grpc.health.v1.Health/"];
/// Answered to every caller, whatever its scopes: what it tells is published.
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// How callers are told apart. Nothing set: they are not.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The file with the tokens' hashes, see [`Tokens::parse`].
    pub token_file: Option<PathBuf>,
    /// Whether clients' certificates are asked for, so that their names count.
    pub certificates: bool,
    /// Scopes of the names in certificates: a URI such as a SPIFFE id, or a DNS
    /// name.
    pub identities: BTreeMap<String, Scopes>,
}

/// What a call comes to.
pub(in crate::rpc) enum Entry {
    /// It is made by this caller, as long as its token is good.
    As(Caller, Option<Pass>),
    /// This caller lacks every scope that would do: their names.
    Lacks(Caller, String),
    /// Nobody answers it.
    NoMethod(Caller),
}

/// The token that a caller was let in with.
pub(in crate::rpc) struct Pass {
    token: Hash,
    caller: Caller,
    tokens: watch::Receiver<Arc<Tokens>>,
}

impl Pass {
    /// Ready when the token is taken back, or a scope of it.
    pub async fn withdrawn(mut self) {
        while self.tokens.changed().await.is_ok() {
            let now = self.tokens.borrow_and_update();
            let holds = now.caller(&self.token).is_some_and(|now| {
                now.id == self.caller.id && now.scopes.include(self.caller.scopes)
            });
            if !holds {
                return;
            }
        }
        // Nobody reads the file any more: the server has ended.
        pending().await
    }
}

/// Tells callers apart.
pub(in crate::rpc) struct Gate {
    /// Whether everybody may do everything.
    open: bool,
    tokens: Option<Fresh<Tokens>>,
    identities: BTreeMap<String, Scopes>,
}

impl Gate {
    /// The error is one sentence.
    pub fn new(options: &Options) -> Result<Self, String> {
        if let Some(name) = options.identities.keys().find(|name| !is_name(name)) {
            return Err(format!(
                "server.auth.identities: `{}` must be 1 to 128 printable ASCII characters",
                name.escape_debug()
            ));
        }
        let tokens = options.token_file.clone().map(|file| {
            Fresh::new("server.auth.token_file", vec![file.clone()], move || {
                let text = fresh::read_private(&file)?;
                Tokens::parse(&text).map_err(|why| format!("{}, {why}", file.display()))
            })
        });
        Ok(Self {
            open: options.token_file.is_none() && !options.certificates,
            tokens: tokens.transpose()?,
            identities: options.identities.clone(),
        })
    }

    /// Lets everybody do everything.
    pub fn open() -> Self {
        Self {
            open: true,
            tokens: None,
            identities: BTreeMap::new(),
        }
    }

    /// Whether there are files that can change.
    pub fn has_files(&self) -> bool {
        self.tokens.is_some()
    }

    /// Reads the tokens again if they have changed. Blocks.
    pub fn look(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.look();
        }
    }

    /// Decides on a call.
    pub fn enter(
        &self,
        path: &str,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Entry, Error> {
        if self.open {
            return Ok(Entry::As(Caller::anybody(), None));
        }
        if OPEN.iter().any(|open| path.starts_with(open)) {
            let nobody = Caller {
                id: CallerId::default(),
                scopes: Scopes::NONE,
            };
            return Ok(Entry::As(nobody, None));
        }
        let (caller, pass) = self.caller(headers, peer).ok_or(Error::Credentials)?;
        let published = || REFLECTION.iter().any(|prefix| path.starts_with(prefix));
        Ok(match method(path) {
            Some(method) if caller.scopes.has_any(method.scopes) => Entry::As(caller, pass),
            Some(method) => Entry::Lacks(caller, scope::names(method.scopes)),
            None if published() => Entry::As(caller, pass),
            None => Entry::NoMethod(caller),
        })
    }

    /// Who calls: a token, if there is one, goes before a certificate, also
    /// when it is wrong.
    fn caller(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Option<(Caller, Option<Pass>)> {
        let mut told = headers.get_all(AUTHORIZATION).iter();
        let Some(credentials) = told.next() else {
            return Some((self.by_certificate(&peer?.names)?, None));
        };
        if told.next().is_some() {
            return None;
        }
        let (scheme, token) = credentials.as_bytes().split_at_checked("Bearer ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return None;
        }
        let token = digest(token.trim_ascii());
        let mut tokens = self.tokens.as_ref()?.follow();
        let caller = tokens.borrow_and_update().caller(&token).cloned()?;
        let pass = Pass {
            token,
            caller: caller.clone(),
            tokens,
        };
        Some((caller, Some(pass)))
    }

    /// The first name that has scopes. A certificate that was accepted and has
    /// none is somebody who may do nothing.
    fn by_certificate(&self, names: &[String]) -> Option<Caller> {
        let known = names
            .iter()
            .find_map(|name| self.identities.get_key_value(name));
        let (name, scopes) = match known {
            Some((name, scopes)) => (name, *scopes),
            // It stands in the log, which nobody's certificate may write lines of.
            None => (names.iter().find(|name| is_name(name))?, Scopes::NONE),
        };
        Some(Caller {
            id: CallerId::from(name.as_str()),
            scopes,
        })
    }
}
