//! How connections are encrypted and callers told apart, from files that were
//! read.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::auth::{self, Gate};
use super::tls::{self, Tls};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

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

    /// Reads files again that have changed, for ever.
    pub(super) async fn follow(&self) -> Infallible {
        if !self.gate.as_ref().is_some_and(|gate| gate.has_files()) && self.tls.is_none() {
            return pending().await;
        }
        loop {
            sleep(LOOK).await;
            let (gate, tls) = (self.gate.clone(), self.tls.clone());
            let look = move || {
                gate.inspect(|gate| gate.look());
                tls.inspect(|tls| tls.look());
            };
            // A panic was reported where it was.
            let _ = spawn_blocking(look).await;
        }
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
