//! What holds for all nodes: the pause, a provider's limit, and that the context
//! or the budget changed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::inner::Inner;
use crate::error::Error;
use crate::id::TaskId;
use crate::store::StoreError;
use crate::store::cluster::Control;

/// How often a change is tried again when others come first.
const CONFLICTS_MAX: u32 = 64;

/// Follows what holds for all now.
pub(in super::super) async fn read(inner: &Inner) -> Result<(), Error> {
    let Some((cluster, _)) = inner.cluster() else {
        return Ok(());
    };
    let control = cluster.control().await?;
    follow(inner, &control).await
}

async fn follow(inner: &Inner, control: &Control) -> Result<(), Error> {
    let mut changed = inner.set_pause(control.paused.clone());
    changed |= inner.hold.follow(&control.hold);
    changed |= inner
        .budget_limited
        .swap(control.has_budget, Ordering::SeqCst)
        != control.has_budget;
    if control.context_revision != inner.context().revision {
        let context = inner.store.context().await?;
        inner.context.send_replace(Arc::new(context));
        changed = true;
    }
    if changed {
        inner.status_changed();
        inner.may_wait.store(true, Ordering::SeqCst);
        inner.wake.notify_one();
    }
    Ok(())
}

/// Changes what holds for all; `set` says whether there is anything to do.
async fn change(inner: &Inner, set: impl Fn(&mut Control) -> bool) -> Result<bool, Error> {
    let Some((cluster, _)) = inner.cluster() else {
        return Ok(false);
    };
    for _ in 0..CONFLICTS_MAX {
        let mut control = cluster.control().await?;
        follow(inner, &control).await?;
        if !set(&mut control) {
            return Ok(false);
        }
        let hold = control.hold.clone();
        match cluster.set_control(control).await {
            Ok(_) => {
                inner.hold.shared(&hold);
                return Ok(true);
            }
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Conflict)
}

/// Sets or ends the pause of all nodes.
pub(in super::super) async fn pause(inner: &Inner, reason: Option<String>) -> Result<(), Error> {
    let set = |control: &mut Control| {
        control.paused.clone_from(&reason);
        true
    };
    change(inner, set).await?;
    Ok(())
}

/// Tells the others of this node's change of the hold.
pub(in super::super) async fn share_hold(inner: &Inner) -> Result<(), Error> {
    let set = |control: &mut Control| {
        let hold = inner.hold.to_bytes();
        let differs = control.hold != hold;
        control.hold = hold;
        differs
    };
    change(inner, set).await?;
    Ok(())
}

/// Takes the right to send one attempt ahead: of all nodes one has it.
pub(in super::super) async fn may_probe(inner: &Inner) -> Result<bool, Error> {
    if inner.cluster().is_none() {
        return Ok(true);
    }
    let take = |control: &mut Control| {
        let probing = inner.hold.probing(inner.now());
        let may = probing.is_some();
        control.hold = probing.unwrap_or_default();
        may
    };
    let taken = change(inner, take).await?;
    if taken {
        inner.hold.probes(TaskId::MIN);
    }
    Ok(taken)
}

/// Who went ahead may be gone: another may.
pub(in super::super) async fn let_another_probe(inner: &Inner) -> Result<(), Error> {
    if inner.hold.forget_probe() {
        share_hold(inner).await?;
    }
    Ok(())
}
