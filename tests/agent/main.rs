//! The Claude agent, driven against a scripted CLI: the conformance suite, and
//! every way in which a process can go wrong.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod faults;
mod kit;
mod servers;

use kit::{Fake, fake};

async fn with_spares() -> Fake {
    fake().await
}

async fn without_spares() -> Fake {
    kit::fake_with(|options| {
        options.env.insert("FAKE_NO_AWAIT_CLAIM".into(), "1".into());
    })
    .await
    .that_has_no_spares()
}

mod a_spare {
    claudepool::agent_conformance!(super::with_spares);
}

mod a_launch {
    claudepool::agent_conformance!(super::without_spares);
}
