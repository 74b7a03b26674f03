//! A database and servers, each at an address of its own.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use claudepool::pb;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio_postgres::{Client, NoTls};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::net::{Network, Place};
use crate::server::Server;
use crate::support::agents::{LOADED, this_program};
use crate::support::secure::{Secrets, private};
use crate::support::{Caller, PATIENCE, events};

/// How long a node that is not heard of keeps its work.
pub const LEASE: Duration = Duration::from_secs(6);
/// Silence before a server asks whether a caller is there, and its wait for the
/// answer; how long a caller may then be away.
pub const ASKED: Duration = Duration::from_secs(2);
pub const AWAY: Duration = Duration::from_secs(1);

/// What a caller without a certificate sends.
pub const TOKEN: &str = "a-token-of-a-test-that-nobody-guesses";
const PASSWORD: &str = "scrambled";
const DATABASE: u8 = 2;

/// One network with a database.
pub struct Site {
    pub network: Network,
    pub secrets: Secrets,
    database: Server,
    at: Place,
    admin: Client,
    dir: tempfile::TempDir,
}

/// A server on it. It is killed when dropped.
pub struct Node {
    pub caller: Caller,
    pub addr: SocketAddr,
    pub place: Place,
    _child: Child,
}

impl Site {
    pub async fn new() -> Self {
        let network = Network::new();
        let at = network.place(DATABASE);
        let mut shell = at.enter();
        shell.arg("sh");
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("pg");
        std::fs::create_dir(&data).unwrap();
        let database = Server::start_by(shell, &at.address.to_string(), data);
        // By the file system, which all share: nobody else comes in without the
        // password.
        let admin = admin(&database, "postgres").await;
        let role = format!("CREATE ROLE claudepool LOGIN PASSWORD '{PASSWORD}'");
        admin.batch_execute(&role).await.unwrap();
        let own = "CREATE DATABASE pool OWNER claudepool";
        admin.batch_execute(own).await.unwrap();
        let rules = database.dir.join("data/pg_hba.conf");
        let mut rules = std::fs::File::options().append(true).open(rules).unwrap();
        writeln!(rules, "host pool claudepool 10.77.0.0/16 scram-sha-256").unwrap();
        database.reload();
        let secrets = Secrets::new();
        secrets.tokens(&[("ci", "work", TOKEN)]);
        Self {
            admin: self::admin(&database, "pool").await,
            network,
            secrets,
            database,
            at,
            dir,
        }
    }

    fn url(&self) -> String {
        let (at, port) = (self.at.address, self.database.port);
        format!("postgres://claudepool:{PASSWORD}@{at}:{port}/pool?sslmode=disable&pool_size=4")
    }

    /// Starts a server of two slots at an address of its own; its name is one of
    /// its labels.
    pub async fn serve(&self, name: &str, host: u8, label: &str) -> Node {
        let place = self.network.place(host);
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(dir.join("work")).unwrap();
        let (certificate, key) = self.secrets.authority.server_at(place.address.into());
        std::fs::write(dir.join("cert.pem"), certificate).unwrap();
        private(&dir.join("key.pem"), &key);
        std::fs::write(dir.join("config.toml"), self.config(name, label)).unwrap();
        let kind = crate::agent();
        let around = kind.surroundings().await;
        let mut command = tokio::process::Command::from(place.enter());
        let mut child = command
            .arg(this_program())
            .env_clear()
            .envs(&around.env)
            .env("CLAUDEPOOL_LOG", "warn")
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", &dir)
            .args(["serve", "--listen", &format!("{}:50051", place.address)])
            .args(["--store", &self.url()])
            .arg("--config")
            .arg(dir.join("config.toml"))
            .arg("--claude-bin")
            .arg(kind.program().unwrap())
            .arg("--working-dir")
            .arg(dir.join("work"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.join("stderr")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut ready = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, ready.next_line()).await;
        let line = line.expect("it serves in time").unwrap();
        let log = || std::fs::read_to_string(dir.join("stderr")).unwrap();
        assert!(line.is_some(), "{name} does not serve: {}", log());
        let addr = SocketAddr::new(place.address.into(), 50051);
        let channel = self.endpoint(addr).connect().await.unwrap();
        Node {
            caller: Caller::over(channel, kind.grammar()),
            addr,
            place,
            _child: child,
        }
    }

    fn config(&self, name: &str, label: &str) -> String {
        let (asked, away) = (ASKED.as_secs(), AWAY.as_secs());
        let (lease, patience) = (LEASE.as_secs(), LOADED.as_secs());
        let dir = self.dir.path().join(name);
        let at = |file: &str| dir.join(file).display().to_string();
        let of = |file: &str| self.secrets.file(file).display().to_string();
        format!(
            "[pool]\nslots = 2\nspares = 0\nnode_id = '{name}'\nnode_labels = ['{name}', '{label}']\n\
             node_lease = '{lease}s'\nreattach_grace = '{away}s'\n\
             [pool.settings]\nallowed_tools = ['Bash']\n\
             [agent]\nreset_timeout = '{patience}s'\ncontrol_timeout = '{patience}s'\n\
             [status]\nlisten = 'off'\n\
             [server.limits]\nkeepalive_interval = '{asked}s'\nkeepalive_timeout = '{asked}s'\n\
             [server.tls]\ncertificate = '{}'\nkey = '{}'\nclient_ca = '{}'\n\
             [server.auth]\ntoken_file = '{}'\n\
             [server.auth.identities]\ncaller = ['work', 'operate']\n",
            at("cert.pem"),
            at("key.pem"),
            of("ca.pem"),
            of("tokens"),
        )
    }

    /// How callers trust the servers.
    pub fn trust(&self) -> ClientTlsConfig {
        let authority = Certificate::from_pem(self.secrets.authority.pem());
        ClientTlsConfig::new().ca_certificate(authority)
    }

    /// The way to a server, with the caller's certificate.
    fn endpoint(&self, addr: SocketAddr) -> Endpoint {
        let identity = self.secrets.authority.client(&[], &["caller"]);
        let endpoint = Channel::from_shared(format!("https://{addr}")).unwrap();
        let endpoint = endpoint.connect_timeout(Duration::from_secs(5));
        endpoint
            .tls_config(self.trust().identity(identity))
            .unwrap()
    }

    /// How long the database keeps a node's work for it, in seconds; `None`: it
    /// is buried.
    pub async fn lease_left(&self, node: &str) -> Option<f64> {
        let sql = "SELECT (lease_end / 1e6 - extract(epoch FROM clock_timestamp()))::float8
            FROM nodes WHERE id = $1";
        let row = self.admin.query_opt(sql, &[&node]).await.unwrap();
        row.map(|row| row.get(0))
    }

    /// Where the database's users come from.
    pub async fn users(&self) -> BTreeSet<IpAddr> {
        let sql = "SELECT DISTINCT host(client_addr) FROM pg_stat_activity
            WHERE usename = 'claudepool'";
        let rows = self.admin.query(sql, &[]).await.unwrap();
        let address = |row: &tokio_postgres::Row| row.get::<_, String>(0).parse().unwrap();
        rows.iter().map(address).collect()
    }

    /// The program as a caller at an address of its own.
    pub fn command(&self, place: &Place, server: SocketAddr) -> Command {
        let token = self.dir.path().join("token");
        private(&token, TOKEN);
        let mut command = place.enter();
        command
            .arg(this_program())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .env("CLAUDEPOOL_SERVER", format!("https://{server}"))
            .env("CLAUDEPOOL_TOKEN_FILE", token)
            .env("CLAUDEPOOL_CA_CERT", self.secrets.file("ca.pem"));
        command
    }

    /// A file that tests share with the agents' tools.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

async fn admin(database: &Server, name: &str) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(&database.dir).port(database.port);
    config.user("postgres").dbname(name);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(async move {
        // It ends with its client.
        let _ = connection.await;
    });
    client
}

impl Node {
    /// A task's whole log. In time: heartbeats alone would go on for ever.
    pub async fn log(&mut self, id: &str) -> Vec<pb::Event> {
        let log = events(self.caller.watch(id, 0).await);
        let log = tokio::time::timeout(PATIENCE, log).await;
        log.expect("the task ends in time")
    }

    /// Waits until a task has said something.
    pub async fn said(&mut self, id: &str) {
        let said = tokio::time::timeout(PATIENCE, self.caller.said(id)).await;
        said.expect("the task says something in time");
    }

    /// Waits until the status of all, as this one tells it, fits.
    pub async fn until(&mut self, fits: impl Fn(&pb::PoolStatus) -> bool) {
        let request = pb::WatchStatusRequest {
            interval: Some(prost_types::Duration {
                seconds: 0,
                nanos: 100_000_000,
            }),
            ..pb::WatchStatusRequest::default()
        };
        let watch = self.caller.work.watch_status(request).await.unwrap();
        let mut watch = watch.into_inner();
        let found = async {
            loop {
                let message = watch.message().await.unwrap().expect("it goes on");
                if let Some(pb::watch_status_response::Item::Status(status)) = message.item
                    && fits(&status)
                {
                    return;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.expect("the status fits in time");
    }
}

/// Who lives.
pub fn names(status: &pb::PoolStatus) -> Vec<&str> {
    let nodes = status.nodes.iter();
    nodes.map(|node| node.node_id.as_str()).collect()
}

/// Work that only servers with a label run.
pub fn on(label: &str, task: pb::TaskSpec) -> pb::TaskSpec {
    pb::TaskSpec {
        node_label: label.to_owned(),
        ..task
    }
}
