//! The names of methods in spans and metrics: one that a caller made up is neither.

use super::auth;

/// Methods that are everybody's.
const STANDARD: [&str; 5] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The method that a path names, as `package.Service/Method`, or `_OTHER`.
pub fn known(path: &str) -> &'static str {
    let ours = auth::method(path).map(|method| method.path);
    let standard = || STANDARD.into_iter().find(|standard| *standard == path);
    let found = ours.or_else(standard);
    found.map_or("_OTHER", |path| path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_has_is_known_and_nothing_else() {
        for method in [
            "claudepool.v1.PoolService/Run",
            "claudepool.v1.ContextService/SetContext",
            "grpc.health.v1.Health/Watch",
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(known(&format!("/{method}")), method);
        }
        for path in [
            "",
            "/",
            "/claudepool.v1.PoolService/Made\nUp",
            "claudepool.v1.PoolService/Run",
        ] {
            assert_eq!(known(path), "_OTHER", "{path}");
        }
    }
}
