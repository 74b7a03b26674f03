//! Every method of the contract, with every kind of credentials: allowed, or
//! the exact refusal. The methods come from the descriptor set; one without a
//! row fails.

use std::collections::{BTreeMap, BTreeSet};

use claudepool::pb;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::support::secure::{Secrets, call};
use crate::support::{Harness, PATIENCE, Running, prompt};

/// What an answer comes to: a code and a reason. OK has none.
type Outcome = (Code, String);

const UNKNOWN: (Code, &str) = (Code::Unauthenticated, "CREDENTIALS");
const MISSING: (Code, &str) = (Code::PermissionDenied, "SCOPE_MISSING");
const INVALID: (Code, &str) = (Code::InvalidArgument, "INVALID_FIELD");
const GOOD: (Code, &str) = (Code::Ok, "");

/// Whose task, chain and fan-out are asked for.
struct Work {
    task: String,
    chain: String,
    group: String,
}

/// A message about somebody's work.
type About = fn(&Work) -> Vec<u8>;

/// A method, and what may be expected of it.
pub struct Row {
    pub path: &'static str,
    /// One of these is enough.
    scopes: &'static [&'static str],
    /// What its owner gets for an empty message, or the one in `harmless`.
    allowed: (Code, &'static str),
    pub harmless: Vec<u8>,
    /// Messages about somebody's work, and how it is refused when it is
    /// another's.
    about: Vec<(About, &'static str)>,
}

fn row(path: &'static str, scopes: &'static [&'static str], allowed: (Code, &'static str)) -> Row {
    Row {
        path,
        scopes,
        allowed,
        harmless: Vec::new(),
        about: Vec::new(),
    }
}

impl Row {
    fn about(mut self, message: About) -> Self {
        self.about.push((message, "TASK_NOT_FOUND"));
        self
    }

    fn of_group(mut self, message: About) -> Self {
        self.about.push((message, "GROUP_NOT_FOUND"));
        self
    }

    fn harmless(mut self, message: impl Message) -> Self {
        self.harmless = message.encode_to_vec();
        self
    }
}

const READ: &[&str] = &["read", "work", "operate", "author"];
const WORK: &[&str] = &["work"];
const OWN: &[&str] = &["work", "operate"];
const OPERATE: &[&str] = &["operate"];
const AUTHOR: &[&str] = &["author"];

/// A message with a task_id alone, in field 1, as most have.
fn task(work: &Work) -> Vec<u8> {
    let task_id = work.task.clone();
    pb::GetTaskRequest { task_id }.encode_to_vec()
}

fn chain(work: &Work) -> Vec<u8> {
    let task_id = work.chain.clone();
    pb::GetTaskRequest { task_id }.encode_to_vec()
}

fn group(work: &Work) -> Vec<u8> {
    let target = pb::cancel_request::Target::GroupId(work.group.clone());
    let target = Some(target);
    pb::CancelRequest { target }.encode_to_vec()
}

/// Only what a server must not be asked in earnest has a message of its own.
pub fn rows() -> Vec<Row> {
    let in_the_past = pb::DrainRequest {
        deadline: Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        }),
        ..Default::default()
    };
    vec![
        row("PoolService/Run", WORK, INVALID),
        row("PoolService/RunStream", WORK, INVALID),
        row("PoolService/Submit", WORK, INVALID),
        row("PoolService/GetResult", READ, INVALID).about(task),
        row("PoolService/ReadOutput", READ, INVALID).about(task),
        row("PoolService/WatchTask", READ, INVALID).about(task),
        row("PoolService/Cancel", OWN, INVALID)
            .about(task)
            .of_group(group),
        row("PoolService/Retry", WORK, INVALID).about(task),
        row("PoolService/FanOut", WORK, INVALID),
        row("PoolService/SubmitChain", WORK, INVALID),
        row("PoolService/FanOutChains", WORK, INVALID),
        row("PoolService/SubmitWorkflow", WORK, INVALID),
        row("PoolService/GetChainProgress", READ, INVALID).about(chain),
        row("PoolService/WatchChain", READ, INVALID).about(chain),
        row("PoolService/CancelChain", OWN, INVALID).about(chain),
        row("PoolService/GetTask", READ, INVALID).about(task),
        row("PoolService/ListTasks", READ, GOOD),
        row("PoolService/DeleteTask", OWN, INVALID).about(task),
        row("PoolService/GetStatus", READ, GOOD),
        row("PoolService/WatchStatus", READ, GOOD),
        row("OperatorService/ScaleUp", OPERATE, INVALID),
        row("OperatorService/ScaleDown", OPERATE, INVALID),
        row("OperatorService/SetTargetSlots", OPERATE, INVALID).harmless(
            pb::SetTargetSlotsRequest {
                target: -1,
                ..Default::default()
            },
        ),
        row("OperatorService/ListSlots", OPERATE, GOOD),
        row("OperatorService/GetSlot", OPERATE, INVALID),
        row("OperatorService/RestartSlot", OPERATE, INVALID),
        row("OperatorService/StartSupervisor", OPERATE, GOOD),
        row("OperatorService/StopSupervisor", OPERATE, GOOD),
        row("OperatorService/Pause", OPERATE, GOOD),
        row("OperatorService/Resume", OPERATE, GOOD),
        row("OperatorService/SetBudget", OPERATE, GOOD),
        row("OperatorService/GetConfig", OPERATE, GOOD),
        row("OperatorService/Drain", OPERATE, INVALID).harmless(in_the_past),
        row("CatalogService/PutSkill", AUTHOR, INVALID),
        row("CatalogService/GetSkill", READ, INVALID),
        row("CatalogService/ListSkills", READ, GOOD),
        row("CatalogService/DeleteSkill", AUTHOR, INVALID),
        row("CatalogService/PutWorkflow", AUTHOR, INVALID),
        row("CatalogService/GetWorkflow", READ, INVALID),
        row("CatalogService/ListWorkflows", READ, GOOD),
        row("CatalogService/DeleteWorkflow", AUTHOR, INVALID),
        row("ContextService/SetContext", AUTHOR, INVALID),
        row("ContextService/GetContext", READ, INVALID),
        row("ContextService/DeleteContext", AUTHOR, INVALID),
        row("ContextService/ListContext", READ, GOOD),
    ]
}

/// Every method of ours, with the fields of its request.
fn methods() -> BTreeMap<String, BTreeSet<String>> {
    let set = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let ours = set.file.iter().filter(|f| f.package() == "claudepool.v1");
    let messages: BTreeMap<_, _> = ours
        .clone()
        .flat_map(|file| &file.message_type)
        .map(|message| (format!(".claudepool.v1.{}", message.name()), message))
        .collect();
    let mut found = BTreeMap::new();
    for service in ours.flat_map(|file| &file.service) {
        for method in &service.method {
            let request = messages[method.input_type()];
            let fields = request.field.iter().map(|f| f.name().to_owned());
            let path = format!("{}/{}", service.name(), method.name());
            found.insert(path, fields.collect());
        }
    }
    found
}

#[test]
fn every_method_has_a_row() {
    let methods = methods();
    let rows = rows();
    let paths: BTreeSet<_> = rows.iter().map(|row| row.path.to_owned()).collect();

    assert_eq!(paths, methods.keys().cloned().collect());
    assert_eq!(paths.len(), rows.len(), "no method twice");
    for row in rows {
        let fields = &methods[row.path];
        let about = fields.contains("task_id") || fields.contains("group_id");
        assert_eq!(!row.about.is_empty(), about, "{}", row.path);
    }
}

async fn outcome(
    channel: &Channel,
    path: &str,
    authorization: Option<&str>,
    message: &[u8],
) -> Outcome {
    let called = call(channel, path, authorization, message.to_vec());
    let answer = tokio::time::timeout(PATIENCE, called).await;
    match answer.expect("an answer in time") {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => {
            let info = status.get_details_error_info();
            (status.code(), info.map(|i| i.reason).unwrap_or_default())
        }
    }
}

fn is(seen: &Outcome, want: (Code, &str)) -> bool {
    (seen.0, seen.1.as_str()) == want
}

/// A caller by name, with the header or the connection that says so.
struct Somebody<'a> {
    name: &'static str,
    channel: &'a Channel,
    authorization: Option<&'static str>,
    /// What it may do; `None`: nobody knows it.
    scope: Option<&'static str>,
}

const SPIFFE: &str = "spiffe://example.org/ns/ci/sa/";

async fn server(secrets: &Secrets) -> Running {
    secrets.tokens(&[
        ("reader", "read", "token-read"),
        ("alice", "work", "token-work"),
        ("bob", "work", "token-bob"),
        ("olga", "operate", "token-operate"),
        ("anna", "author", "token-author"),
    ]);
    let identities = [
        ("spiffe://example.org/ns/ci/sa/worker", "work"),
        ("spiffe://example.org/ns/ci/sa/operator", "operate"),
        ("writer.example.org", "author"),
    ];
    let security = secrets.security(&identities);
    Harness::new()
        .server(|options| options.security = security)
        .start()
        .await
}

#[tokio::test]
async fn every_method_is_allowed_with_its_scopes_and_refused_without() {
    let secrets = Secrets::new();
    let running = server(&secrets).await;
    let port = running.addr.port();
    let connect = async |identity| secrets.connect(port, identity).await;
    let certified = async |uris: &[&str], names: &[&str]| {
        connect(Some(secrets.authority.client(uris, names))).await
    };
    let uri = |name: &str| format!("{SPIFFE}{name}");
    let plain = connect(None).await;
    let worker = certified(&[&uri("worker")], &[]).await;
    let operator = certified(&[&uri("operator")], &["writer.example.org"]).await;
    let writer = certified(&[&uri("unknown")], &["writer.example.org"]).await;
    let stranger = certified(&[&uri("unknown")], &["unknown.example.org"]).await;
    let nameless = certified(&[], &[]).await;
    let somebody = |name, channel, authorization, scope| Somebody {
        name,
        channel,
        authorization,
        scope,
    };
    let token = |name, authorization, scope| somebody(name, &plain, Some(authorization), scope);
    let mut callers = vec![
        somebody("nobody", &plain, None, None),
        token("a wrong token", "Bearer token-wrong", None),
        token("an empty token", "Bearer ", None),
        token("another scheme", "Basic token-work", None),
        token("a token without a scheme", "token-work", None),
        token("read", "Bearer token-read", Some("read")),
        token("work", "bearer token-work", Some("work")),
        token("operate", "Bearer token-operate", Some("operate")),
        token("author", "Bearer token-author", Some("author")),
        somebody("a certificate for work", &worker, None, Some("work")),
        somebody("for operation", &operator, None, Some("operate")),
        somebody("for authors, by DNS", &writer, None, Some("author")),
        somebody("a certificate without scopes", &stranger, None, Some("")),
        somebody("a certificate without names", &nameless, None, None),
    ];
    // What somebody says goes before what the connection is.
    let wrong = Some("Bearer token-wrong");
    callers.push(somebody(
        "certified, with a wrong token",
        &worker,
        wrong,
        None,
    ));

    let mut wrong = Vec::new();
    for who in &callers {
        for row in rows() {
            let path = format!("/claudepool.v1.{}", row.path);
            let want = match who.scope {
                None => UNKNOWN,
                Some(scope) if row.scopes.contains(&scope) => row.allowed,
                Some(_) => MISSING,
            };
            let seen = outcome(who.channel, &path, who.authorization, &row.harmless).await;
            if !is(&seen, want) {
                wrong.push(format!(
                    "{}, {}: {seen:?}, not {want:?}",
                    row.path, who.name
                ));
            }
        }
        let reflection = match who.scope {
            None => UNKNOWN,
            Some(_) => GOOD,
        };
        for (path, want) in [
            ("grpc.health.v1.Health/Check", GOOD),
            ("grpc.health.v1.Health/Watch", GOOD),
            (
                "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                reflection,
            ),
            (
                "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                reflection,
            ),
        ] {
            let seen = outcome(who.channel, &format!("/{path}"), who.authorization, &[]).await;
            if !is(&seen, want) {
                wrong.push(format!("{path}, {}: {seen:?}, not {want:?}", who.name));
            }
        }
        // What is in no table is not reached.
        let want = match who.scope {
            None => UNKNOWN,
            Some(_) => (Code::Unimplemented, ""),
        };
        for path in ["/claudepool.v1.PoolService/New", "/claudepool.v2.A/B", "/"] {
            let seen = outcome(who.channel, path, who.authorization, &[]).await;
            if !is(&seen, want) {
                wrong.push(format!("{path}, {}: {seen:?}, not {want:?}", who.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Work of alice's: all of it has ended.
async fn work(running: &Running, channel: &Channel) -> Work {
    let as_alice = |mut request: tonic::Request<()>| {
        let token = "Bearer token-work".parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        Ok(request)
    };
    let mut pool =
        pb::pool_service_client::PoolServiceClient::with_interceptor(channel.clone(), as_alice);
    let run = pb::RunRequest {
        task: Some(running.say("hello")),
        ..Default::default()
    };
    let task = pool.run(run).await.unwrap().into_inner().task.unwrap();
    assert_eq!(task.caller, "alice");
    let step = pb::ChainStep {
        name: "only".to_owned(),
        action: Some(pb::chain_step::Action::Prompt("say hello".to_owned())),
        ..Default::default()
    };
    let chain = pb::SubmitChainRequest {
        steps: vec![step],
        ..Default::default()
    };
    let chain = pool.submit_chain(chain).await.unwrap().into_inner().task_id;
    let tasks = pb::FanOutRequest {
        tasks: vec![prompt("say hello")],
        ..Default::default()
    };
    let mut fan_out = pool.fan_out(tasks).await.unwrap().into_inner();
    let mut group = None;
    while let Some(message) = fan_out.message().await.unwrap() {
        if let Some(pb::fan_out_response::Item::Accepted(accepted)) = message.item {
            group = Some(accepted.group_id);
        }
    }
    let wait = pb::GetResultRequest {
        task_id: chain.clone(),
        wait: Some(PATIENCE.try_into().unwrap()),
    };
    assert!(
        pool.get_result(wait)
            .await
            .unwrap()
            .into_inner()
            .result
            .is_some()
    );
    Work {
        task: task.task_id,
        chain,
        group: group.unwrap(),
    }
}

#[tokio::test]
async fn another_callers_work_is_not_found_but_by_an_operator() {
    let secrets = Secrets::new();
    let running = server(&secrets).await;
    let channel = secrets.connect(running.addr.port(), None).await;
    let uri = format!("{SPIFFE}worker");
    let worker = secrets.authority.client(&[&uri], &[]);
    let worker = secrets.connect(running.addr.port(), Some(worker)).await;
    let work = work(&running, &channel).await;
    // Nobody's work: what another's must look like.
    let id = claudepool::id::TaskId::new().to_string();
    let nothing = Work {
        task: id.clone(),
        chain: id.clone(),
        group: id,
    };

    let mut wrong = Vec::new();
    for row in rows() {
        let path = format!("/claudepool.v1.{}", row.path);
        for (message, reason) in &row.about {
            let of = async |work: &Work, authorization| {
                outcome(&channel, &path, Some(authorization), &message(work)).await
            };
            let bobs = of(&work, "Bearer token-bob").await;
            if !is(&bobs, (Code::NotFound, reason)) {
                wrong.push(format!("{}: {bobs:?} for bob", row.path));
            }
            let workers = outcome(&worker, &path, None, &message(&work)).await;
            if workers != bobs {
                wrong.push(format!("{}: {workers:?} for a certificate", row.path));
            }
            let nobodys = of(&nothing, "Bearer token-bob").await;
            if nobodys != bobs {
                wrong.push(format!("{}: {bobs:?}, but {nobodys:?}", row.path));
            }
            let deletes = row.path.ends_with("DeleteTask");
            let alices = of(&work, "Bearer token-work").await;
            if alices.0 == Code::NotFound || alices.0 == Code::PermissionDenied {
                wrong.push(format!("{}: {alices:?} for alice", row.path));
            }
            let operators = of(&work, "Bearer token-operate").await;
            let want = match row.scopes.contains(&"operate") {
                // Alice has deleted it just now.
                true if deletes => (Code::NotFound, "TASK_NOT_FOUND".to_owned()),
                true => alices,
                false => (MISSING.0, MISSING.1.to_owned()),
            };
            if operators != want {
                wrong.push(format!(
                    "{}: {operators:?}, not {want:?} for olga",
                    row.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
