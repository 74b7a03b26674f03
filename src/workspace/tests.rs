//! On real repositories. One folder of tests per promise.

mod failures;
mod keeping;
mod recovery;
mod shapes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::*;

/// A repository with one commit, and servers beside it.
struct Scene {
    temp: tempfile::TempDir,
    repo: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let scene = Self::empty();
        scene.write(&scene.repo, "README", "hello\n");
        scene.write(&scene.repo, "sub/inner/file", "inner\n");
        scene.write(&scene.repo, ".gitignore", "*.ignored\n");
        git(&scene.repo, &["add", "."]);
        git(&scene.repo, &["commit", "-qm", "first"]);
        scene
    }

    fn empty() -> Self {
        let temp = tempfile::tempdir().expect("a directory");
        let repo = temp.path().canonicalize().expect("there").join("repo");
        fs::create_dir(&repo).expect("made");
        git(&repo, &["init", "-q", "-b", "main"]);
        git(&repo, &["config", "user.name", "Someone"]);
        git(&repo, &["config", "user.email", "someone@example.com"]);
        Self { temp, repo }
    }

    async fn server(&self) -> Workspaces {
        self.server_with(Options::default()).await
    }

    async fn server_with(&self, options: Options) -> Workspaces {
        Workspaces::open(&self.base(), "node/1", options)
            .await
            .expect("opened")
    }

    async fn impatient(&self) -> Workspaces {
        self.server_with(Options {
            limit: Duration::from_secs(4),
            lock_wait: Duration::from_millis(200),
            ..Options::default()
        })
        .await
    }

    fn base(&self) -> PathBuf {
        self.temp.path().join("state/workspaces")
    }

    fn write(&self, dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn hook(&self, name: &str, script: &str) {
        let path = self.repo.join(".git/hooks").join(name);
        self.write(&self.repo, &format!(".git/hooks/{name}"), script);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    }

    fn refs(&self) -> String {
        git(&self.repo, &["for-each-ref"])
    }

    /// What the repository holds that an attempt must not change.
    fn face(&self) -> String {
        let mut face = self.refs();
        for args in [
            &["status", "--porcelain"][..],
            &["symbolic-ref", "HEAD"],
            &["config", "--local", "--list"],
            &["worktree", "list"],
            &["stash", "list"],
        ] {
            face += &git(&self.repo, args);
        }
        face
    }

    /// The text of a file at a ref of the repository.
    fn show(&self, git_ref: &str, name: &str) -> String {
        git(&self.repo, &["show", &format!("{git_ref}:{name}")])
    }

    /// Names of what is left in the base folder, but the servers' own files.
    fn leftovers(&self) -> Vec<String> {
        let mut names = fs::read_dir(self.base())
            .expect("there")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| !name.ends_with(".owner"))
            .collect::<Vec<_>>();
        names.sort();
        names
    }
}

/// Runs git as a user would; it has to succeed.
fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git is there");
    assert!(
        output.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn commit_file(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).expect("written");
    git(dir, &["add", "--", name]);
    git(dir, &["commit", "-qm", name]);
}
