//! Debian's PostgreSQL, started here on a free port and gone with the test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use claudepool::store::postgres::Postgres;
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};

/// Makes a server, says `ready`, and ends it when its input ends: with whoever
/// wanted it, however that went. PostgreSQL refuses to run as root.
const SCRIPT: &str = r#"
set -eu
dir=$1 bin=$2 port=$3 address=$4
if [ "$(id -u)" = 0 ]; then
    chown postgres "$dir"
    as() { runuser -u postgres -- "$@"; }
else
    as() { "$@"; }
fi
end() {
    # A test may have made it stand still.
    pid=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) &&
        kill -CONT "$pid" $(cat "/proc/$pid/task/$pid/children") 2>/dev/null || :
    as "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || :
    rm -rf "$dir"
}
trap end EXIT
trap 'exit 1' INT TERM HUP
as "$bin/initdb" -D "$dir/data" -U postgres -A trust --no-sync >"$dir/initdb.log" 2>&1
cat >>"$dir/data/postgresql.conf" <<END
port = $port
unix_socket_directories = '$dir'
listen_addresses = '$address'
max_connections = 300
END
as "$bin/pg_ctl" -D "$dir/data" -l "$dir/data/log" -w -s start
echo ready
cat >/dev/null
"#;

/// A server that runs. It is gone when this is.
pub struct Server {
    pub port: u16,
    pub dir: PathBuf,
    bin: PathBuf,
    made: AtomicU32,
    input: Option<ChildStdin>,
    script: Child,
}

/// One for all tests that leave it as it is.
pub static SHARED: LazyLock<Server> = LazyLock::new(|| {
    let server = Server::start();
    // Nothing here is about what a crash of the machine leaves.
    server.configure("fsync = off");
    server.reload();
    server
});

/// Where the programs are.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    found.sort();
    found.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path));
    let found = found.into_iter().find(|dir| dir.join("initdb").exists());
    found.expect("there is no PostgreSQL: install it (Debian's package `postgresql`)")
}

impl Server {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        Self::start_by(Command::new("sh"), "127.0.0.1", dir)
    }

    /// The same by a shell of the caller's, at an address, in a new directory
    /// that its user can reach.
    pub fn start_by(mut shell: Command, address: &str, dir: PathBuf) -> Self {
        let bin = programs();
        let port = crate::free_port();
        let mut script = shell
            .args(["-c", SCRIPT, "sh"])
            .arg(&dir)
            .arg(&bin)
            .args([&port.to_string(), address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let out = script.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut said).unwrap();
        let logs = ["initdb.log", "data/log"].map(|log| std::fs::read_to_string(dir.join(log)));
        assert_eq!(said, "ready\n", "PostgreSQL does not start: {logs:?}");
        Self {
            port,
            dir,
            bin,
            made: AtomicU32::new(0),
            input: script.stdin.take(),
            script,
        }
    }

    /// Adds a line to its configuration.
    pub fn configure(&self, line: &str) {
        use std::io::Write;
        let file = self.dir.join("data/postgresql.conf");
        let mut file = std::fs::File::options().append(true).open(file).unwrap();
        writeln!(file, "{line}").unwrap();
    }

    /// A program of it, as its user.
    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        if !rustix::process::geteuid().is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    }

    fn control(&self, words: &[&str]) {
        let mut command = self.command("pg_ctl");
        command.arg("-D").arg(self.dir.join("data")).args(words);
        let done = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert!(done.unwrap().success(), "pg_ctl {words:?}");
    }

    pub fn reload(&self) {
        self.control(&["-s", "reload"]);
    }

    /// Ends it at once, as a crash does.
    pub fn crash(&self) {
        self.control(&["-s", "-m", "immediate", "stop"]);
    }

    /// Starts it again where it was.
    pub fn again(&self) {
        let log = self.log_path();
        self.control(&["-s", "-w", "-l", log.to_str().unwrap(), "start"]);
    }

    /// Ends and starts it as an operator does: `fast` takes leave of whoever is
    /// connected, `immediate` of nobody.
    pub fn restart(&self, mode: &str) {
        let log = self.log_path();
        self.control(&[
            "-s",
            "-w",
            "-m",
            mode,
            "-l",
            log.to_str().unwrap(),
            "restart",
        ]);
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("data/log")
    }

    /// The process that all others of it are children of.
    pub fn pid(&self) -> String {
        let pid = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        pid.lines().next().unwrap().to_owned()
    }

    /// Its processes.
    fn processes(&self) -> Vec<Pid> {
        let pid = self.pid();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let all = [pid.as_str()]
            .into_iter()
            .chain(children.split_whitespace());
        all.map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
            .collect()
    }

    /// Makes all of it stand still, or go on.
    pub fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // One that has ended meanwhile stands still enough.
            let _ = kill_process(pid, signal);
        }
    }

    /// A database by its name.
    pub fn url(&self, name: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{name}?pool_size=8",
            self.port
        )
    }

    /// Somebody who may do everything.
    pub async fn admin(&self, name: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(name).replace("?pool_size=8", ""), NoTls)
                .await
                .unwrap();
        tokio::spawn(async move {
            // It ends with the test.
            let _ = connection.await;
        });
        client
    }

    /// A new database; its name.
    pub async fn database(&self) -> String {
        let name = format!("pool_{}", self.made.fetch_add(1, Ordering::SeqCst));
        let admin = self.admin("postgres").await;
        let sql = format!("CREATE DATABASE {name}");
        admin.batch_execute(&sql).await.unwrap();
        name
    }

    /// A store in a new database, and its name.
    pub async fn store(&self) -> (Postgres, String) {
        let name = self.database().await;
        let store = open(&self.url(&name)).await;
        (store, name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.input.take());
        // It removes its directory, too.
        let _ = self.script.wait();
    }
}

pub async fn open(url: &str) -> Postgres {
    match Postgres::open(url).await {
        Ok(store) => store,
        Err(error) => panic!("it does not open: {error}"),
    }
}

/// Gives a file to the user that the server runs as, and to nobody else.
pub fn give(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        let done = Command::new("chown").arg("postgres").arg(path).status();
        assert!(done.unwrap().success());
    }
}
