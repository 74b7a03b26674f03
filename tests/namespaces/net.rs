//! Network namespaces on one wire.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

/// Each test has a network of its own, in which this process is a caller.
static NETWORKS: AtomicU8 = AtomicU8::new(1);

/// The caller's own address in each.
const CALLER: u8 = 1;

/// A network namespace, kept by a process that does nothing.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "no network namespace");
        Self(child)
    }

    /// What runs a program in it.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id()));
        command.arg("--");
        command
    }

    fn ip(&self, words: &str) -> String {
        ip(self.enter().arg("ip"), words)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn ip(command: &mut Command, words: &str) -> String {
    let done = command.args(words.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {words}: {said}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A wire that places are plugged into.
pub struct Network {
    number: u8,
    switch: Namespace,
}

impl Network {
    /// One that this process is plugged into.
    pub fn new() -> Self {
        assert!(
            std::env::var_os("CLAUDEPOOL_TEST_NAMESPACES").is_some(),
            "this makes network namespaces: run it by `make test-namespaces`"
        );
        let number = NETWORKS.fetch_add(1, Ordering::SeqCst);
        let switch = Namespace::new();
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let network = Self { number, switch };
        let own = std::process::id();
        network.plug(CALLER, own, &format!("w{number}"), |words| {
            ip(&mut Command::new("ip"), words)
        });
        network
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, host)
    }

    /// A link from the switch to a process's namespace, and its address there.
    fn plug(&self, host: u8, pid: u32, name: &str, there: impl Fn(&str) -> String) {
        let add = format!("link add p{host} type veth peer name {name} netns {pid}");
        self.switch.ip(&add);
        self.switch.ip(&format!("link set p{host} master br0 up"));
        there(&format!("addr add {}/24 dev {name}", self.address(host)));
        there(&format!("link set {name} up"));
    }

    /// A new namespace on the wire.
    pub fn place(&self, host: u8) -> Place {
        let namespace = Namespace::new();
        self.plug(host, namespace.0.id(), "e0", |words| namespace.ip(words));
        Place {
            address: self.address(host),
            host,
            namespace,
        }
    }

    /// Takes a place's link down at the switch: nothing tells those at its ends
    /// that what they send is lost.
    pub fn cut(&self, place: &Place) {
        self.switch.ip(&format!("link set p{} down", place.host));
    }

    /// Takes it up again.
    pub fn mend(&self, place: &Place) {
        self.switch.ip(&format!("link set p{} up", place.host));
    }
}

/// A namespace with an address.
pub struct Place {
    pub address: Ipv4Addr,
    host: u8,
    namespace: Namespace,
}

impl Place {
    /// What runs a program there.
    pub fn enter(&self) -> Command {
        self.namespace.enter()
    }

    /// Whether anything there can be reached by loopback.
    pub fn has_loopback(&self) -> bool {
        self.namespace.ip("-o link show dev lo").contains("UP")
    }
}
