//! claudepool keeps a pool of warm Claude Code processes and puts them to work.

#[cfg(feature = "server")]
pub mod agent;
#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "server")]
pub mod id;
#[cfg(feature = "server")]
pub mod money;
pub mod pb;
#[cfg(feature = "server")]
pub mod event {
    //! e
    pub mod wire {
        //! w
        /// d
        pub type WatchTaskResponse = crate::pb::WatchTaskResponse;
        /// r
        pub type RunStreamResponse = crate::pb::RunStreamResponse;
    }
}
