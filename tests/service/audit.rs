//! The audit log: who changed anything.

use std::collections::BTreeSet;

use claudepool::pb;
use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::method_options::IdempotencyLevel;

use super::matrix::rows;
use crate::support::Program;
use crate::support::raw::call;

/// Every method of the contract that does not say that it changes nothing.
fn changing() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let ours = set.file.iter().filter(|f| f.package() == "claudepool.v1");
    let services = ours.flat_map(|file| &file.service);
    let methods = services.flat_map(|service| service.method.iter().map(move |m| (service, m)));
    let changes = methods.filter(|(_, method)| {
        let options = method.options.as_ref();
        options.is_none_or(|o| o.idempotency_level() != IdempotencyLevel::NoSideEffects)
    });
    let names = changes.map(|(service, method)| format!("{}/{}", service.name(), method.name()));
    names.collect()
}

#[tokio::test]
async fn every_method_that_changes_anything_has_its_line_and_no_other_has() {
    let program = Program::new().await;
    let server = program.serve_with(&[("CLAUDEPOOL_LOG", "info")]).await;

    for row in rows() {
        let path = format!("/claudepool.v1.{}", row.path);
        // What streams without end has a second.
        call(server.addr, &path, Some("1S"), &row.harmless).await;
    }

    let log = program.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("claudepool::audit"))
        .collect();
    let changing = changing();
    for method in &changing {
        let named = format!("method=\"/claudepool.v1.{method}\"");
        let told = lines.iter().filter(|line| line.contains(&named)).count();
        assert_eq!(told, 1, "{method}: {lines:#?}");
    }
    assert_eq!(lines.len(), changing.len(), "{lines:#?}");
}
