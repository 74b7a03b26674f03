//! The connections of calls.

use deadpool_postgres::{ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool};
use deadpool_postgres::{RecyclingMethod, Runtime};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::Target;
use crate::store::OpenError;

/// A pool of them. What the server is told ends what a client that is gone has
/// left there.
pub(super) fn pool(target: &Target, tls: MakeRustlsConnect) -> Result<Pool, OpenError> {
    let manager = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_config(target.config.clone(), tls, manager);
    let limit = target.call.as_millis();
    // All statements are short: compiling one takes far longer than it saves. An
    // engine that does not compile does not know the setting.
    let setup = format!(
        "SET statement_timeout = {limit}; SET lock_timeout = {limit};
         SET idle_in_transaction_session_timeout = {limit};
         SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'jit'"
    );
    let setup = Hook::async_fn(move |client: &mut ClientWrapper, _| {
        let setup = setup.clone();
        Box::pin(async move {
            client
                .batch_execute(&setup)
                .await
                .map_err(HookError::Backend)
        })
    });
    Pool::builder(manager)
        .max_size(target.connections)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(target.call))
        .create_timeout(Some(target.call))
        .recycle_timeout(Some(target.call))
        .post_create(setup)
        .build()
        .map_err(|error| OpenError(format!("no connections can be made: {error}")))
}
