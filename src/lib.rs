//! pb
pub mod pb;
/// e
pub mod event {
/// w
pub mod wire {
    /// d
    pub type WatchTaskResponse = crate::pb::WatchTaskResponse;
    /// r
    pub type RunStreamResponse = crate::pb::RunStreamResponse;
}
}
