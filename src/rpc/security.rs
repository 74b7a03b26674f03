//! How connections are encrypted and callers told apart, from files that were
//! read.

use std::fmt;
use std::sync::Arc;

use super::auth::{self, Gate};
use super::tls::{self, Tls};

/// Files that were read and are good. Cheap to clone. Default: no encryption,
/// and everybody may do everything.
#[derive(Clone, Default)]
pub struct Security {
    gate: Option<Arc<Gate>>,
    tls: Option<Arc<Tls>>,
}

impl Security {
    /// Reads the files. The error is one sentence.
    pub fn open(auth: &auth::Options, tls: Option<&tls::Options>) -> Result<Self, String> {
        Ok(Self {
            gate: Some(Arc::new(Gate::new(auth)?)),
            tls: tls.map(Tls::new).transpose()?.map(Arc::new),
        })
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        self.gate.clone().unwrap_or_else(|| Arc::new(Gate::open()))
    }

    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("auth", &self.gate.is_some())
            .field("tls", &self.tls.is_some())
            .finish()
    }
}
