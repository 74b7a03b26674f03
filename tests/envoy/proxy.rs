//! Envoy before a server, each on a free port.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::support::PATIENCE;

/// The shipped configuration, from the root.
const SHIPPED: &str = "deploy/envoy/envoy.yaml";
/// What is there once for each server, last.
const SERVER: &str = "              - endpoint:";

/// A proxy that runs. It is killed when dropped.
pub struct Envoy {
    pub addr: SocketAddr,
    admin: SocketAddr,
    _child: Child,
    _dir: tempfile::TempDir,
}

/// A port that was free a moment ago.
pub fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// The program under test.
fn program() -> std::ffi::OsString {
    std::env::var_os("CLAUDEPOOL_TEST_ENVOY").expect("set CLAUDEPOOL_TEST_ENVOY: make test-envoy")
}

impl Envoy {
    /// Starts it before one server.
    pub async fn before(server: SocketAddr, changes: &[(&str, &str)]) -> Self {
        Self::before_all(&[server], changes).await
    }

    /// Starts it before these servers, with the shipped configuration but for
    /// its ports and these changes.
    pub async fn before_all(servers: &[SocketAddr], changes: &[(&str, &str)]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut config = std::fs::read_to_string(root.join(SHIPPED)).unwrap();
        let (addr, admin) = (free(), free());
        let (rest, server) = config.split_at(config.find(SERVER).unwrap());
        let server = server.trim_end();
        let of = |addr: &SocketAddr| server.replace("50051", &addr.port().to_string());
        let all: Vec<_> = servers.iter().map(of).collect();
        config = format!("{rest}{}\n", all.join("\n"));
        let ports = [(8080, addr), (9901, admin)];
        let ports = ports.map(|(shipped, addr)| {
            let port = |port: u16| format!("port_value: {port} }}");
            (port(shipped), port(addr.port()))
        });
        let changes = changes
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        for (shipped, ours) in ports.into_iter().chain(changes) {
            assert!(config.contains(&shipped), "{SHIPPED} has no {shipped}");
            config = config.replace(&shipped, &ours);
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("envoy.yaml");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new(program())
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "-l",
                "info",
                "-c",
            ])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("starting workers") {
                    return;
                }
                seen += &line;
                seen.push('\n');
            }
            panic!("it does not start: {seen}");
        };
        tokio::time::timeout(PATIENCE, ready)
            .await
            .expect("ready in time");
        // It must be able to write on.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let envoy = Self {
            addr,
            admin,
            _child: child,
            _dir: dir,
        };
        for server in servers {
            envoy.until_health_of(*server, true).await;
        }
        envoy
    }

    /// What the admin page answers.
    async fn admin(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// What it says of a server.
    async fn about(&self, server: SocketAddr, what: &str) -> String {
        let clusters = self.admin("/clusters").await;
        let begins = format!("claudepool::{server}::{what}::");
        let line = clusters.lines().find_map(|line| line.strip_prefix(&begins));
        line.expect("it knows the server").trim().to_owned()
    }

    /// Waits until it has made more calls to a server.
    pub async fn until_used(&self, server: SocketAddr) {
        let calls = async || -> u64 { self.about(server, "rq_success").await.parse().unwrap() };
        let before = calls().await;
        let wait = async {
            while calls().await == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("in time");
    }

    /// Waits until a server is healthy in its eyes, or is not.
    pub async fn until_health_of(&self, server: SocketAddr, healthy: bool) {
        let wait = async {
            while (self.about(server, "health_flags").await == "healthy") != healthy {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("in time");
    }

    /// A counter of the server's cluster.
    pub async fn count(&self, name: &str) -> u64 {
        let name = format!("cluster.claudepool.{name}: ");
        let stats = self.admin("/stats").await;
        let line = stats.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("a counter").parse().unwrap()
    }
}

#[tokio::test]
async fn the_shipped_configuration_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut envoy = Command::new(program());
    let envoy = envoy
        .args(["--mode", "validate", "-c"])
        .arg(root.join(SHIPPED));
    let output = envoy.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}
