//! A store that fails when told to.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::layer::{Call, Layer, Layered};
use super::{Store, StoreError};

/// Passes every call on, or fails it with `Unavailable`.
pub type Faulty = Layered<Faults>;

/// When a call fails that is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before it has done anything.
    Before,
    /// After it has done everything.
    After,
}

/// What is wrong with the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// Whatever writes fails, as with a full disk.
    Writes,
    /// Every call fails.
    Everything,
    /// Whatever writes is not answered, and not done, until that is over.
    Hangs,
}

/// The faults of a [`Faulty`].
#[derive(Default)]
pub struct Faults {
    planned: Mutex<Vec<Planned>>,
    trouble: watch::Sender<Trouble>,
    /// Calls failed so far, told to or not.
    failed: watch::Sender<u64>,
}

struct Planned {
    call: Call,
    /// Calls of its kind until it, from 1.
    left: u64,
    when: When,
}

impl Layered<Faults> {
    /// One that fails nothing yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::over(store, Arc::default())
    }

    /// The `n`th call of `commit` from now on fails before it has done
    /// anything, from 1; once. 0: none.
    pub fn fail_commit(&self, n: u64) {
        self.fail(Call::Commit, n, When::Before);
    }

    /// The `n`th call of a kind from now on fails, from 1; once. 0: none.
    pub fn fail(&self, call: Call, n: u64, when: When) {
        let mut planned = self.layer().lock();
        planned.retain(|planned| planned.call != call);
        if n > 0 {
            planned.push(Planned {
                call,
                left: n,
                when,
            });
        }
    }

    /// Whether every call but `close` fails.
    pub fn fail_all(&self, fail: bool) {
        self.trouble(if fail {
            Trouble::Everything
        } else {
            Trouble::None
        });
    }

    /// What is wrong from now on.
    pub fn trouble(&self, trouble: Trouble) {
        self.layer().trouble.send_replace(trouble);
    }

    /// Calls failed so far, told to or not.
    pub fn failed(&self) -> watch::Receiver<u64> {
        self.layer().failed.subscribe()
    }
}

impl Faults {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Planned>> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this call was told to fail, and when.
    fn planned(&self, call: Call) -> Option<When> {
        let mut planned = self.lock();
        let at = planned.iter().position(|planned| planned.call == call)?;
        planned[at].left -= 1;
        (planned[at].left == 0).then(|| planned.swap_remove(at).when)
    }

    fn fail<T>(&self) -> Result<T, StoreError> {
        self.failed.send_modify(|count| *count += 1);
        Err(StoreError::Unavailable("told to fail".to_owned()))
    }
}

impl Layer for Faults {
    async fn around<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let planned = self.planned(call);
        let trouble = *self.trouble.borrow();
        match trouble {
            _ if planned == Some(When::Before) => return self.fail(),
            Trouble::Everything => return self.fail(),
            Trouble::Writes if call != Call::Read => return self.fail(),
            Trouble::Hangs if call != Call::Read => {
                let mut trouble = self.trouble.subscribe();
                // The sender is ours.
                let _ = trouble.wait_for(|now| *now != Trouble::Hangs).await;
            }
            Trouble::None | Trouble::Writes | Trouble::Hangs => {}
        }
        match work.await {
            _ if planned == Some(When::After) => self.fail(),
            Err(error) if error.is_outage() => {
                self.failed.send_modify(|count| *count += 1);
                Err(error)
            }
            done => done,
        }
    }
}
