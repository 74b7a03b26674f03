//! The decision: who calls, and may it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::scope::{self, method};
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
#[derive(Debug)]
pub(in crate::rpc) enum Entry {
    /// It is made by this caller.
    As(Caller),
    /// This caller lacks every scope that would do: their names.
    Lacks(Caller, String),
    /// Nobody answers it.
    NoMethod(Caller),
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

    /// Decides on a call.
    pub fn enter(
        &self,
        path: &str,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Entry, Error> {
        if self.open {
            return Ok(Entry::As(Caller::anybody()));
        }
        if OPEN.iter().any(|open| path.starts_with(open)) {
            return Ok(Entry::As(Caller {
                id: CallerId::default(),
                scopes: Scopes::NONE,
            }));
        }
        let caller = self.caller(headers, peer).ok_or(Error::Credentials)?;
        Ok(match method(path) {
            Some(method) if caller.scopes.has_any(method.scopes) => Entry::As(caller),
            Some(method) => Entry::Lacks(caller, scope::names(method.scopes)),
            None if REFLECTION.iter().any(|prefix| path.starts_with(prefix)) => Entry::As(caller),
            None => Entry::NoMethod(caller),
        })
    }

    /// Who calls: a token, if there is one, goes before a certificate, also
    /// when it is wrong.
    fn caller(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Option<Caller> {
        let mut told = headers.get_all(AUTHORIZATION).iter();
        let Some(credentials) = told.next() else {
            return self.by_certificate(&peer?.names);
        };
        if told.next().is_some() {
            return None;
        }
        let (scheme, token) = credentials.as_bytes().split_at_checked("Bearer ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return None;
        }
        let tokens = self.tokens.as_ref()?.get();
        tokens.caller(token.trim_ascii()).cloned()
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
